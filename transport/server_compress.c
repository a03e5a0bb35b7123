/* Answers for slow links are compressed, by whoever answers. */
#include <stdlib.h>
#include <strings.h>

#include "transport/compress.h"
#include "transport/server_internal.h"

/* One element of a list, "zstd" or "zstd;q=0.5". */
static bool names_zstd(const char *at, const char *end)
{
	const size_t length = strlen(COMPRESS_NAME);

	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	if ((size_t)(end - at) < length || strncasecmp(at, COMPRESS_NAME, length) != 0)
		return false;
	at += length;
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	if (at == end)
		return true;
	if (*at++ != ';')
		return false;
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	if (end - at < 3 || (*at | 0x20) != 'q' || at[1] != '=')
		return false;
	/* A weight of zero, in any number of digits, means "not this one". */
	for (at += 2; at < end; at++)
		if (*at >= '1' && *at <= '9')
			return true;
	return false;
}

bool accepts_zstd(const uint8_t *value, size_t length)
{
	const char *at = (const char *)value, *end = at + length;

	while (at < end) {
		const char *comma = memchr(at, ',', (size_t)(end - at));
		const char *stop = comma ? comma : end;

		if (names_zstd(at, stop))
			return true;
		at = stop + 1;
	}
	return false;
}

/* Whether all of it is worth a try. A sample is taken where that is not known. */
static bool is_worth_it(struct server_request *r)
{
	struct server *s = r->loop->server;
	enum squeeze_verdict verdict;
	struct slice sample;
	size_t length;

	pthread_mutex_lock(&s->squeeze_lock);
	verdict = squeeze_decide(&s->squeeze, r->group, r->bulk.length, r->link_rate);
	pthread_mutex_unlock(&s->squeeze_lock);
	if (verdict != SQUEEZE_SAMPLE)
		return verdict == SQUEEZE_ALL;
	/* From the middle: what a file begins with is often not like the rest. */
	sample.length = r->bulk.length < SQUEEZE_SAMPLE_BYTES ? r->bulk.length
							      : SQUEEZE_SAMPLE_BYTES;
	sample.data = (uint8_t *)r->bulk.data + (r->bulk.length - sample.length) / 2;
	length = compress_sample(sample);
	pthread_mutex_lock(&s->squeeze_lock);
	squeeze_learned(&s->squeeze, r->group, sample.length, length);
	pthread_mutex_unlock(&s->squeeze_lock);
	return (sample.length - length) * 1000 >= SQUEEZE_SAVED_MIN * sample.length;
}

void request_compress(struct server_request *r)
{
	struct server *s = r->loop->server;
	struct slice head = { r->head, r->head_length };
	struct slice bulk = { r->bulk.data, r->bulk.length };
	size_t all = head.length + bulk.length, length = all;
	struct instant before;
	uint8_t *data;
	bool smaller;

	if (!r->accepts_zstd || r->link_rate == 0 || r->http_status != 200 ||
	    bulk.length < SQUEEZE_BYTES_MIN || !is_worth_it(r))
		return;
	before = clock_now();
	smaller = compress_body(head, bulk, all - all / 8, &data, &length) == 0;
	pthread_mutex_lock(&s->squeeze_lock);
	squeeze_measured(&s->squeeze, all, instant_until(before, clock_now()).ns);
	squeeze_learned(&s->squeeze, r->group, all, smaller ? length : all);
	pthread_mutex_unlock(&s->squeeze_lock);
	if (!smaller)
		return;
	if (r->head != r->reply_inline)
		free(r->head);
	bulk_release(&r->bulk);
	r->head = data;
	r->head_length = length;
	r->compressed = true;
	s->counters.compressed_in += all;
	s->counters.compressed_out += length;
}
