// Arousal, dominance and valence of speech.wav on an SD card: 16 kHz, mono, 16 bit.
#include <SD.h>
#include <@NAME@.hpp>

static const int CHIP_SELECT = 10; // of the card
static @NAME@::Stream stream;      // holds all memory that the model needs

static uint32_t number(const uint8_t *bytes, int count) {
    uint32_t value = 0;
    while (count-- > 0) {
        value = value << 8 | bytes[count];
    }
    return value;
}

// Leaves the file at its first sample; false if it is something else.
static bool open_wav(File &file) {
    uint8_t head[12], chunk[8], format[16];
    if (file.read(head, 12) != 12 || memcmp(head, "RIFF", 4) != 0 || memcmp(head + 8, "WAVE", 4) != 0) {
        return false;
    }
    bool fits = false;
    while (file.read(chunk, 8) == 8) {
        uint32_t size = number(chunk + 4, 4), next = file.position() + size + (size & 1u);
        if (memcmp(chunk, "data", 4) == 0) {
            return fits;
        }
        if (memcmp(chunk, "fmt ", 4) == 0 && size >= 16 && file.read(format, 16) == 16) {
            fits = number(format, 2) == 1 && number(format + 2, 2) == 1 &&
                   number(format + 4, 4) == stream.sampling_rate && number(format + 14, 2) == 16;
        }
        if (!file.seek(next)) {
            return false;
        }
    }
    return false;
}

static void print(const char *name, const nano_estimate &estimate) {
    Serial.print(name);
    Serial.print(" arousal ");
    Serial.print(estimate.arousal, 4);
    Serial.print(" dominance ");
    Serial.print(estimate.dominance, 4);
    Serial.print(" valence ");
    Serial.println(estimate.valence, 4);
}

void setup() {
    Serial.begin(115200);
    while (!Serial) {
    }
    File file;
    if (!SD.begin(CHIP_SELECT) || !(file = SD.open("speech.wav"))) {
        Serial.println("no SD card, or no speech.wav on it");
        return;
    }
    if (!open_wav(file)) {
        Serial.println("speech.wav is not 16 kHz, mono, 16 bit");
        return;
    }
    int16_t block[160];
    nano_estimate estimate;
    stream.estimate_every(62); // once a second
    for (int got; (got = file.read(reinterpret_cast<uint8_t *>(block), sizeof block)) > 1;) {
        stream.push(block, static_cast<size_t>(got) / 2);
        if (stream.read(estimate) == NANO_OK) {
            print("now", estimate);
        }
    }
    if (stream.read_overall(estimate) == NANO_OK) {
        print("overall", estimate);
    } else {
        Serial.println("less than .25 s of speech");
    }
    file.close();
}

void loop() {}
