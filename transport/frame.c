#include "transport/frame.h"

#include <errno.h>
#include <stdlib.h>

#include "lease/base/bytes.h"

int frame_split(struct slice body, struct slice *ret_message, struct slice *ret_bulk)
{
	struct reader r = reader_of(body.data, body.length);
	uint32_t length = reader_u32(&r);
	struct slice message;

	if (r.failed || length == 0 || length > MESSAGE_BYTES_MAX)
		return -EBADMSG;
	message = reader_bytes(&r, length);
	if (r.failed || body.length - r.at > BULK_BYTES_MAX)
		return -EBADMSG;
	*ret_message = message;
	*ret_bulk = (struct slice){ body.data + r.at, body.length - r.at };
	return 0;
}

static size_t encode(const struct message *message, uint8_t *buffer, size_t size)
{
	struct writer w = writer_of(buffer, size);
	struct writer head = writer_of(buffer, size);

	writer_u32(&w, 0);
	message_encode(&w, message);
	if (w.failed || w.at - FRAME_HEAD_BYTES > MESSAGE_BYTES_MAX)
		return 0;
	writer_u32(&head, (uint32_t)(w.at - FRAME_HEAD_BYTES));
	return w.at;
}

int frame_encode(const struct message *message, uint8_t *buffer, size_t size, uint8_t **ret_data,
		 size_t *ret_length)
{
	size_t length = encode(message, buffer, size);
	uint8_t *data = buffer;
	uint8_t *smaller;

	if (length == 0) {
		data = malloc(FRAME_HEAD_BYTES + MESSAGE_BYTES_MAX);
		if (!data)
			return -ENOMEM;
		length = encode(message, data, FRAME_HEAD_BYTES + MESSAGE_BYTES_MAX);
		if (length == 0) {
			free(data);
			return -EMSGSIZE;
		}
		smaller = realloc(data, length);
		if (smaller)
			data = smaller;
	}
	*ret_data = data;
	*ret_length = length;
	return 0;
}

static int begin_message(struct frame_reader *r)
{
	struct reader head = reader_of(r->head, sizeof(r->head));
	uint32_t length = reader_u32(&head);

	if (length == 0 || length > MESSAGE_BYTES_MAX)
		return -EBADMSG;
	r->message = malloc(length);
	if (!r->message)
		return -ENOMEM;
	r->length = length;
	return 0;
}

int frame_reader_feed(struct frame_reader *r, const uint8_t *data, size_t length,
		      void (*received)(void *context, struct slice message), void *context)
{
	while (length > 0) {
		size_t end = r->message ? FRAME_HEAD_BYTES + r->length : FRAME_HEAD_BYTES;
		size_t take = end - r->at < length ? end - r->at : length;
		int error;

		if (r->message)
			memcpy(r->message + (r->at - FRAME_HEAD_BYTES), data, take);
		else
			memcpy(r->head + r->at, data, take);
		r->at += take;
		data += take;
		length -= take;
		if (r->at < end)
			continue;
		if (!r->message) {
			error = begin_message(r);
			if (error)
				return error;
			continue;
		}
		received(context, (struct slice){ r->message, r->length });
		frame_reader_finish(r);
	}
	return 0;
}

bool frame_reader_idle(const struct frame_reader *r)
{
	return r->at == 0;
}

void frame_reader_finish(struct frame_reader *r)
{
	free(r->message);
	*r = frame_reader_of_nothing();
}
