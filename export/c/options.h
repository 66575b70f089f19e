/* Options and statuses: their defaults, limits and words. */
#ifndef W2S_OPTIONS_H
#define W2S_OPTIONS_H

#include "wav2small.h"

/* W2S_OK, or W2S_ERROR_ARGUMENT and what is out of its range. */
w2s_status w2s_check_options(const w2s_options *options, char *message);

#endif
