/* The names of files: space and handle, in hex. */
#include "fs/cache/internal.h"

#include <inttypes.h>
#include <stdio.h>

void cache_key_name(uint64_t space, const struct handle *handle, char *name)
{
	static const char digits[] = "0123456789abcdef";

	name += sprintf(name, "%016" PRIx64, space);
	for (unsigned i = 0; i < handle->length; i++) {
		*name++ = digits[handle->bytes[i] >> 4];
		*name++ = digits[handle->bytes[i] & 15];
	}
	*name = 0;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool cache_key_parse(const char *name, uint64_t *ret_space, struct handle *ret_handle)
{
	struct handle handle = { 0 };
	uint64_t space = 0;
	size_t length;

	for (int i = 0; i < CACHE_SPACE_DIGITS; i++) {
		if (digit(*name) < 0)
			return false;
		space = space << 4 | (uint64_t)digit(*name++);
	}
	length = strlen(name);
	if (length == 0 || length % 2 != 0 || length / 2 > HANDLE_BYTES_MAX)
		return false;
	handle.length = (uint8_t)(length / 2);
	for (size_t i = 0; i < handle.length; i++) {
		int high = digit(name[2 * i]), low = digit(name[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		handle.bytes[i] = (uint8_t)(high << 4 | low);
	}
	*ret_space = space;
	*ret_handle = handle;
	return true;
}
