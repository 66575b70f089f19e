// Arousal, dominance and valence of an I2S microphone (such as INMP441: 24 bits in 32).
#if defined(ARDUINO_ARCH_ESP32)
#include <ESP_I2S.h>
static I2SClass I2S;
static const int CLOCK = 4, SELECT = 5, DATA = 6; // your pins
#else
#include <I2S.h>
#endif
#include <@NAME@.hpp>

static @NAME@::Stream stream; // holds all memory that the model needs

static bool start_microphone() {
#if defined(ARDUINO_ARCH_ESP32)
    I2S.setPins(CLOCK, SELECT, -1, DATA);
    return I2S.begin(I2S_MODE_STD, stream.sampling_rate, I2S_DATA_BIT_WIDTH_32BIT, I2S_SLOT_MODE_STEREO);
#else
    return I2S.begin(I2S_PHILIPS_MODE, stream.sampling_rate, 32);
#endif
}

static int read_microphone(int32_t *words, size_t bytes) {
#if defined(ARDUINO_ARCH_ESP32)
    return static_cast<int>(I2S.readBytes(reinterpret_cast<char *>(words), bytes));
#else
    return I2S.read(words, bytes);
#endif
}

void setup() {
    Serial.begin(115200);
    stream.estimate_every(15); // four times a second
    if (!start_microphone()) {
        Serial.println("no microphone");
        while (true) {
        }
    }
}

void loop() {
    int32_t words[2 * 64]; // left and right in turn; the microphone is the left one
    int16_t block[64];
    int got = read_microphone(words, sizeof words);
    size_t n = got > 0 ? static_cast<size_t>(got) / 8 : 0;
    for (size_t i = 0; i < n; i++) {
        block[i] = static_cast<int16_t>(words[2 * i] >> 16);
    }
    nano_estimate now;
    if (stream.push(block, n) == NANO_OK && stream.read(now) == NANO_OK) {
        Serial.print("arousal:");
        Serial.print(now.arousal, 3);
        Serial.print(" dominance:");
        Serial.print(now.dominance, 3);
        Serial.print(" valence:");
        Serial.println(now.valence, 3); // the serial plotter draws these
    }
}
