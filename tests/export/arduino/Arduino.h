// As much of Arduino's core as the examples use, on this machine. Serial is standard output.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

class Stream {}; // the core has a class of that name, too

struct SerialPort {
    void begin(unsigned long) {}
    explicit operator bool() const { return true; }
    void print(const char *text) { fputs(text, stdout); }
    void println(const char *text) { puts(text); }
    void print(double value, int digits) { printf("%.*f", digits, value); }
    void println(double value, int digits) { printf("%.*f\n", digits, value); }
};
static SerialPort Serial;

void setup();
void loop();
