/* Start-up and output for a bare Cortex-M under qemu-system-arm: no operating system, no libc but
 * memcpy and memset. Text goes out by semihosting; SysTick counts instructions with -icount. */
#include "board.h"

extern uint32_t stack_low[], stack_high[];
extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[];

int main(void);
void reset(void);
void fault(void);

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_high, reset, fault, fault, fault, fault, fault, fault,
    fault, fault, fault, fault, fault, fault, fault, fault};

#define PAINT 0xA5A5A5A5u
#define SYSTICK ((volatile uint32_t *)0xE000E010u)
#define CPACR (*(volatile uint32_t *)0xE000ED88u)

static int semihost(int operation, const void *argument) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void board_text(const char *text) {
    semihost(4, text);
}

void board_number(const char *name, uint64_t number) {
    char text[20];
    int at = 19;
    text[at--] = '\0';
    text[at--] = '\n';
    do {
        text[at--] = "0123456789abcdef"[number & 15u];
        number >>= 4;
    } while (number);
    board_text(name);
    board_text(" ");
    board_text(text + at + 1);
}

void board_exit(int code) {
    static const uint32_t done = 0x20026u; /* ADP_Stopped_ApplicationExit */
    static const uint32_t failed = 0x20023u;
    semihost(0x18, (const void *)(uintptr_t)(code ? failed : done));
    for (;;) {
    }
}

uint32_t board_ticks(void) {
    return 0x00FFFFFFu - SYSTICK[2];
}

uint32_t board_stack_used(void) {
    const uint32_t *word = stack_low;
    while (word < stack_high && *word == PAINT) {
        word++;
    }
    return (uint32_t)((const char *)stack_high - (const char *)word);
}

void board_paint_stack(void) {
    uint32_t *here;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    for (uint32_t *word = stack_low; word < here - 16; word++) { /* registers may be saved there */
        *(volatile uint32_t *)word = PAINT;
    }
}

void reset(void) {
    CPACR |= 0xFu << 20; /* the floating-point unit */
    __asm__ volatile("dsb\n\tisb");
    uint32_t *from = data_load;
    for (uint32_t *to = data_start; to < data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = bss_start; to < bss_end; to++) {
        *to = 0u;
    }
    SYSTICK[1] = 0x00FFFFFFu;
    SYSTICK[2] = 0u;
    SYSTICK[0] = 5u; /* on, processor clock, no interrupt */
    board_exit(main());
}

void fault(void) {
    board_text("fault\n");
    board_exit(1);
}
