#include "files.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define MAX_FILE (256L * 1024 * 1024)

void *w2s_read_file(const char *path, size_t *size) {
    void *bytes = NULL;
    FILE *file = fopen(path, "rb");
    *size = 0;
    if (!file) {
        return NULL;
    }
    if (fseek(file, 0, SEEK_END) == 0) {
        long end = ftell(file);
        if (end > 0 && end <= MAX_FILE && fseek(file, 0, SEEK_SET) == 0) {
            bytes = malloc((size_t)end);
            if (bytes && fread(bytes, 1, (size_t)end, file) == (size_t)end) {
                *size = (size_t)end;
            } else {
                free(bytes);
                bytes = NULL;
            }
        }
    }
    fclose(file);
    return bytes;
}

int w2s_is_folder(const char *path) {
    struct stat entry;
    return stat(path, &entry) == 0 && S_ISDIR(entry.st_mode);
}
