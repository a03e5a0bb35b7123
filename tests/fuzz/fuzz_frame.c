/* Whatever comes as a body: it is refused, or its parts lie within it; and cut up differently a
   stream of messages gives the same messages. */
#include <assert.h>

#include "transport/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	uint64_t sum;
	unsigned count;
};

static void take(void *context, struct slice message)
{
	struct seen *seen = context;

	assert(message.length > 0 && message.length <= MESSAGE_BYTES_MAX);
	seen->count++;
	for (size_t i = 0; i < message.length; i++)
		seen->sum = seen->sum * 31 + message.data[i];
}

static int feed(const uint8_t *data, size_t size, size_t step, struct seen *ret_seen)
{
	struct frame_reader r = frame_reader_of_nothing();
	struct seen seen = { 0, 0 };
	int error = 0;

	for (size_t at = 0; at < size && !error; at += step)
		error = frame_reader_feed(&r, data + at, size - at < step ? size - at : step, take,
					  &seen);
	frame_reader_finish(&r);
	*ret_seen = seen;
	return error;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice message;
	struct slice bulk;
	struct seen whole;
	struct seen bytes;
	int error;

	if (frame_split((struct slice){ data, size }, &message, &bulk) == 0) {
		assert(message.data == data + FRAME_HEAD_BYTES);
		assert(bulk.data == message.data + message.length);
		assert(FRAME_HEAD_BYTES + message.length + bulk.length == size);
	}
	error = feed(data, size, size ? size : 1, &whole);
	assert(feed(data, size, 1, &bytes) == error);
	assert(whole.count == bytes.count && whole.sum == bytes.sum);
	assert(feed(data, size, 3, &bytes) == error);
	assert(whole.count == bytes.count && whole.sum == bytes.sum);
	return 0;
}
