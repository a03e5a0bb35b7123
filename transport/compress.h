/*
 * compress.h - bodies as zstd has them (RFC 8878): one frame that names its size and ends in a checksum.
 *
 * Any thread; a thread that compresses keeps what it needs for that (some MiB) until it ends.
 */
#ifndef TRANSPORT_COMPRESS_H
#define TRANSPORT_COMPRESS_H

#include "lease/base/types.h"

/* Its name in accept-encoding and content-encoding (RFC 9110 8.4). */
#define COMPRESS_NAME "zstd"

/*
 * Compresses `head` and `bulk`, as one body, when that makes at most `size_max` bytes of it. 0 and memory
 * from malloc(); -E2BIG: it does not get that small; -ENOMEM.
 */
int compress_body(struct slice head, struct slice bulk, size_t size_max, uint8_t **ret_data,
		  size_t *ret_length) MUST_CHECK;
/* How many bytes `data`, at most 128 KiB, becomes; its own length when it does not get smaller. */
size_t compress_sample(struct slice data);
/*
 * The body again, in memory from malloc() that the caller frees. -EBADMSG: that is not what
 * compress_body() makes, or some of it is damaged; -EMSGSIZE: it is larger than `size_max`, which is
 * found out before any memory is taken; -ENOMEM.
 */
int decompress_body(struct slice data, size_t size_max, uint8_t **ret_data, size_t *ret_length)
	MUST_CHECK;

#endif
