#pragma once
#include "Arduino.h"

class File {
public:
    explicit File(FILE *file = nullptr) : file_(file) {}
    explicit operator bool() const { return file_ != nullptr; }
    int read(void *bytes, uint16_t count) {
        return static_cast<int>(fread(bytes, 1, count, file_));
    }
    bool seek(uint32_t place) { return fseek(file_, static_cast<long>(place), SEEK_SET) == 0; }
    uint32_t position() { return static_cast<uint32_t>(ftell(file_)); }
    void close() { fclose(file_); }

private:
    FILE *file_;
};

struct Card {
    bool begin(int) { return getenv("NO_CARD") == nullptr; }
    File open(const char *path) { return File(fopen(path, "rb")); }
};
static Card SD;
