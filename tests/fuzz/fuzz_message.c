/*
 * What decodes must encode to the same bytes, decode again to the same message, and print within
 * any buffer; the items of its lists must read and write alike. What does not decode must be
 * refused without a read out of bounds.
 */
#include "lease/message.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)       \
	do {                     \
		if (!(condition)) \
			abort(); \
	} while (0)

/* Reads `bytes` as a list of each kind of item; what was read must be written as it was. */
#define CHECK_ITEMS(name)                                                       \
	static void check_items_##name(struct slice bytes)                      \
	{                                                                       \
		static uint8_t again[MESSAGE_BYTES_MAX + 16];                   \
		struct reader r = reader_of(bytes.data, bytes.length);          \
		struct item_##name item;                                        \
                                                                                \
		for (;;) {                                                      \
			size_t from = r.at;                                     \
			struct writer w = writer_of(again, sizeof(again));      \
                                                                                \
			if (!item_##name##_read(&r, &item))                     \
				return;                                         \
			item_##name##_write(&w, &item);                         \
			REQUIRE(!w.failed && w.at == r.at - from);              \
			REQUIRE(memcmp(again, bytes.data + from, w.at) == 0);   \
		}                                                               \
	}
LEASE_ITEMS(CHECK_ITEMS)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[4 * MESSAGE_BYTES_MAX];
	static struct message message, again;
	struct slice input = { data, size };
	struct writer w = writer_of(bytes, sizeof(bytes));
	char text[64];
	size_t length;

#define CHECK(name) check_items_##name(input);
	LEASE_ITEMS(CHECK)
	if (message_decode(input, &message))
		return 0;
	message_encode(&w, &message);
	REQUIRE(!w.failed && w.at == size && memcmp(bytes, data, size) == 0);
	REQUIRE(message_decode((struct slice){ bytes, w.at }, &again) == 0);
	REQUIRE(again.type == message.type);
	length = message_print(&message, text, sizeof(text));
	REQUIRE(length == message_print(&again, NULL, 0));
	REQUIRE(strlen(text) < sizeof(text));
	return 0;
}
