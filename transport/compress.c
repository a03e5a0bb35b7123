#include "transport/compress.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <zstd.h>

#define LEVEL		 1
#define SAMPLE_BYTES_MAX (128u << 10)

static pthread_key_t context_key;
static pthread_once_t context_once = PTHREAD_ONCE_INIT;
static int context_error;

static void context_free(void *context)
{
	(void)ZSTD_freeCCtx(context); /* cannot fail but for one that lies in memory of ours */
}

static void context_init(void)
{
	context_error = pthread_key_create(&context_key, context_free);
}

/* This thread's, ready for a frame. NULL: no memory. */
static ZSTD_CCtx *context_get(void)
{
	ZSTD_CCtx *context;

	(void)pthread_once(&context_once, context_init);
	if (context_error)
		return NULL;
	context = pthread_getspecific(context_key);
	if (!context) {
		context = ZSTD_createCCtx();
		if (!context || pthread_setspecific(context_key, context) != 0) {
			(void)ZSTD_freeCCtx(context);
			return NULL;
		}
	}
	/* Each can only fail for a parameter that this library does not have: then the frame has no
	   checksum, which the other side refuses. */
	(void)ZSTD_CCtx_reset(context, ZSTD_reset_session_and_parameters);
	(void)ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, LEVEL);
	(void)ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
	return context;
}

int compress_body(struct slice head, struct slice bulk, size_t size_max, uint8_t **ret_data,
		  size_t *ret_length)
{
	ZSTD_CCtx *context = context_get();
	uint8_t *data = context ? malloc(size_max ? size_max : 1) : NULL;
	ZSTD_outBuffer out = { data, size_max, 0 };
	ZSTD_inBuffer first = { head.data, head.length, 0 };
	ZSTD_inBuffer second = { bulk.data, bulk.length, 0 };
	size_t left;

	if (!data)
		return -ENOMEM;
	left = ZSTD_CCtx_setPledgedSrcSize(context, head.length + bulk.length);
	if (!ZSTD_isError(left))
		left = ZSTD_compressStream2(context, &out, &first, ZSTD_e_continue);
	if (!ZSTD_isError(left) && first.pos == first.size)
		left = ZSTD_compressStream2(context, &out, &second, ZSTD_e_end);
	/* Not all of it fits when something is left to be flushed. */
	if (ZSTD_isError(left) || left > 0 || first.pos < first.size || second.pos < second.size) {
		free(data);
		return -E2BIG;
	}
	*ret_data = data;
	*ret_length = out.pos;
	return 0;
}

size_t compress_sample(struct slice data)
{
	uint8_t *out;
	size_t length = data.length;

	if (length == 0 || length > SAMPLE_BYTES_MAX ||
	    compress_body((struct slice){ NULL, 0 }, data, length, &out, &length) < 0)
		return data.length;
	free(out);
	return length;
}

/* RFC 8878 3.1.1.1.1: bit 2 of the frame header's descriptor. */
static bool has_checksum(struct slice data)
{
	return data.length > 4 && (data.data[4] & 4) != 0;
}

int decompress_body(struct slice data, size_t size_max, uint8_t **ret_data, size_t *ret_length)
{
	unsigned long long size = ZSTD_getFrameContentSize(data.data, data.length);
	uint8_t *out;
	size_t length;

	if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN ||
	    !has_checksum(data))
		return -EBADMSG;
	if (size > size_max)
		return -EMSGSIZE;
	/* One frame and nothing else. */
	length = ZSTD_findFrameCompressedSize(data.data, data.length);
	if (ZSTD_isError(length) || length != data.length)
		return -EBADMSG;
	out = malloc(size ? (size_t)size : 1);
	if (!out)
		return -ENOMEM;
	length = ZSTD_decompress(out, (size_t)size, data.data, data.length);
	if (ZSTD_isError(length) || length != size) {
		free(out);
		return -EBADMSG;
	}
	*ret_data = out;
	*ret_length = length;
	return 0;
}
