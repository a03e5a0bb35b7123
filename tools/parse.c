#include "tools/parse.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define MILLISECONDS_MAX (UINT64_C(10) * 366 * 24 * 3600 * 1000)

/* Reads the digits that `*text` begins with and moves it behind them. */
static int take_number(const char **text, uint64_t *ret_number)
{
	const char *at = *text;
	uint64_t number = 0;

	if (*at < '0' || *at > '9')
		return -EINVAL;
	for (; *at >= '0' && *at <= '9'; at++) {
		if (__builtin_mul_overflow(number, UINT64_C(10), &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*at - '0'), &number))
			return -ERANGE;
	}
	*text = at;
	*ret_number = number;
	return 0;
}

int parse_count(const char *text, uint32_t min, uint32_t max, uint32_t *ret_count)
{
	uint64_t number;
	int r = take_number(&text, &number);

	if (r < 0)
		return r;
	if (*text != '\0')
		return -EINVAL;
	if (number < min || number > max)
		return -ERANGE;
	*ret_count = (uint32_t)number;
	return 0;
}

int parse_bytes(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "kmgtp";
	const char *unit;
	uint64_t number;
	unsigned int shift = 0;
	int r = take_number(&text, &number);

	if (r < 0)
		return r;
	if (*text != '\0') {
		unit = strchr(units, *text | 0x20);
		if (!unit || *unit == '\0')
			return -EINVAL;
		if (text[1] != '\0' && strcasecmp(text + 1, "iB") != 0)
			return -EINVAL;
		shift = 10 * (unsigned int)(unit - units + 1);
	}
	if (number > (uint64_t)INT64_MAX >> shift)
		return -ERANGE;
	*ret_bytes = number << shift;
	return 0;
}

int parse_milliseconds(const char *text, uint64_t *ret_milliseconds)
{
	static const struct {
		const char *name;
		uint64_t milliseconds;
	} units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60 * 1000 }, { "h", 3600 * 1000 } };
	uint64_t number;
	int r = take_number(&text, &number);

	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(text, units[i].name) != 0)
			continue;
		if (number > MILLISECONDS_MAX / units[i].milliseconds)
			return -ERANGE;
		*ret_milliseconds = number * units[i].milliseconds;
		return 0;
	}
	return -EINVAL;
}

void print_bytes(char text[static PARSE_TEXT_BYTES_MAX], uint64_t bytes)
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	size_t i = 0;

	if (bytes < 1024) {
		snprintf(text, PARSE_TEXT_BYTES_MAX, "%" PRIu64 " bytes", bytes);
		return;
	}
	for (value /= 1024; value >= 1024; value /= 1024)
		i++;
	snprintf(text, PARSE_TEXT_BYTES_MAX, "%.1f %s", value, units[i]);
}
