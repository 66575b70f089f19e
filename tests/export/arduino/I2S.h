// Words from microphone.raw, left and right; the program ends with the file.
#pragma once
#include "Arduino.h"

enum I2SMode { I2S_PHILIPS_MODE };

struct I2SPort {
    bool begin(I2SMode, long rate, int bits) {
        file_ = fopen("microphone.raw", "rb");
        return file_ != nullptr && rate == 16000 && bits == 32;
    }
    int read(void *bytes, size_t count) {
        size_t got = fread(bytes, 1, count, file_);
        if (got == 0) {
            exit(0);
        }
        return static_cast<int>(got);
    }
    FILE *file_ = nullptr;
};
static I2SPort I2S;
