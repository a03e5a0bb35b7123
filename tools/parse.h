/*
 * parse.h - numbers, sizes and durations as people write them on a command line.
 *
 * Pure functions, any thread. Each takes the whole text: what follows the number and its unit is
 * an error, as are signs, spaces and fractions. A missing unit means bytes for a size; a duration
 * without a unit is refused, since half of the world would read it as another one.
 */
#ifndef TOOLS_PARSE_H
#define TOOLS_PARSE_H

#include <stdint.h>

#include "lease/base/types.h"

/* Room for what the print functions below write, the terminating zero included. */
#define PARSE_TEXT_BYTES_MAX 32

/* "7": `min` to `max`. -EINVAL when it is not a number, -ERANGE when it is outside. */
int parse_count(const char *text, uint32_t min, uint32_t max, uint32_t *ret_count) MUST_CHECK;

/*
 * "512", "64K", "10G", "1T" (powers of 1024; also "10GiB" and small letters). -EINVAL when it is
 * not a size, -ERANGE when it does not fit in 63 bits.
 */
int parse_bytes(const char *text, uint64_t *ret_bytes) MUST_CHECK;

/* "500ms", "30s", "2m", "1h". -EINVAL as above, -ERANGE when it is longer than 10 years. */
int parse_milliseconds(const char *text, uint64_t *ret_milliseconds) MUST_CHECK;

/* "1.5 GiB", "17 bytes": for people, rounded to a digit behind the point. */
void print_bytes(char text[static PARSE_TEXT_BYTES_MAX], uint64_t bytes);

#endif
