#ifndef W2S_FILES_H
#define W2S_FILES_H

#include <stddef.h>

/* A file of at most 256 MB, to be freed by the caller; NULL with *size 0 if there is none. */
void *w2s_read_file(const char *path, size_t *size);

int w2s_is_folder(const char *path);

#endif
