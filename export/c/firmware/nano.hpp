// @NAME@.h in C++11: a stream that holds its memory. Made by wav2small @VERSION@.
@LICENCE@
#ifndef @UPPER@_HPP
#define @UPPER@_HPP

#include "@NAME@.h"

namespace @NAME@ {

class Stream {
public:
    static constexpr unsigned sampling_rate = NANO_SAMPLING_RATE;
    static constexpr unsigned hop = @UPPER@_HOP; // samples per estimate

    Stream() { reset(); }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    nano_status reset() { return @NAME@_init(memory_, sizeof memory_, &state_); }
    nano_status push(const int16_t *block, size_t n) { return @NAME@_push(state_, block, n); }
    nano_status push(const float *block, size_t n) { return @NAME@_push_float(state_, block, n); }
    nano_status read(nano_estimate &now) { return @NAME@_read(state_, &now); }
    nano_status read_overall(nano_estimate &all) { return @NAME@_read_overall(state_, &all); }
    nano_status estimate_every(uint32_t hops) { return @NAME@_estimate_every(state_, hops); }
    nano_status set_voice(int32_t probability) { return @NAME@_set_voice(state_, probability); }
    nano_status set_gate(int gate) { return @NAME@_set_gate(state_, gate); }
    nano_status speech(int32_t *probability) const { return @NAME@_speech(state_, probability); }

private:
    @UPPER@_MEMORY(memory_);
    @NAME@_state *state_;
};

} // namespace @NAME@

#endif
