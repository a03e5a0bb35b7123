/*
 * frame.h - how a message stands in an HTTP body: u32 length (little-endian), message, bulk data.
 *
 * `frame_split` takes a complete body apart. `frame_reader` cuts a body that never ends (the recall
 * stream: u32 length, message, u32 length, message ...) into messages as its bytes arrive; it holds
 * at most one message. One caller at a time.
 */
#ifndef TRANSPORT_FRAME_H
#define TRANSPORT_FRAME_H

#include "lease/base/types.h"
#include "lease/message.h"

#define FRAME_HEAD_BYTES 4u
/* The largest body that carries a message: nothing beyond it is ever buffered. */
#define FRAME_BODY_BYTES_MAX (FRAME_HEAD_BYTES + MESSAGE_BYTES_MAX + BULK_BYTES_MAX)
#define FRAME_CONTENT_TYPE "application/x-leasehold"
/* The header `priority` (RFC 9218) of what is on the control channel. */
#define FRAME_URGENT "u=0"
/* The same of what nobody waits for yet; without a header it is u=3. */
#define FRAME_AHEAD "u=5"

/*
 * 0 with the two parts, borrowed from `body`; -EBADMSG when the length does not fit the body or its
 * bounds. An empty message is -EBADMSG too.
 */
int frame_split(struct slice body, struct slice *ret_message, struct slice *ret_bulk) MUST_CHECK;

/*
 * Encodes length and message. Into `buffer` when they fit there, else into memory from malloc()
 * that the caller frees (*ret_data != buffer tells). 0, -ENOMEM, -EMSGSIZE.
 */
int frame_encode(const struct message *message, uint8_t *buffer, size_t size, uint8_t **ret_data,
		 size_t *ret_length) MUST_CHECK;

struct frame_reader {
	uint8_t head[FRAME_HEAD_BYTES];
	uint8_t *message; /* owned; NULL until its length is known */
	size_t length;    /* of the message */
	size_t at;        /* bytes of head and message that are here */
};

static inline struct frame_reader frame_reader_of_nothing(void)
{
	return (struct frame_reader){ .message = NULL };
}

/*
 * Feeds bytes; calls `received` for each message that they complete. 0; -EBADMSG for a length out
 * of bounds, -ENOMEM: then the stream cannot go on.
 */
int frame_reader_feed(struct frame_reader *r, const uint8_t *data, size_t length,
		      void (*received)(void *context, struct slice message),
		      void *context) MUST_CHECK;
/* True when the bytes so far end where a message ends. */
bool frame_reader_idle(const struct frame_reader *r);
void frame_reader_finish(struct frame_reader *r);

#endif
