#ifndef W2S_BOARD_H
#define W2S_BOARD_H

#include <stdint.h>

void board_text(const char *text);
void board_number(const char *name, uint64_t number); /* "name hex" */
void board_exit(int code);
uint32_t board_ticks(void); /* 24 bits, counts up */
void board_paint_stack(void);
uint32_t board_stack_used(void); /* bytes since it was painted, at most */

#endif
