#include "prefetch/bucket.h"

#define US_PER_S 1000000u
#define RATE_MAX (UINT64_C(1) << 40) /* more is as good as no limit, and cannot overflow below */

static uint64_t piece(uint64_t rate)
{
	return rate / BUCKET_SHARE > BUCKET_BYTES_MIN ? rate / BUCKET_SHARE : BUCKET_BYTES_MIN;
}

/* Its place, with what has come in since it was looked at last. */
static struct bucket *bucket_of(struct buckets *b, struct instant now, uint64_t key, uint64_t rate)
{
	struct bucket *place = &b->items[0];
	uint64_t most = piece(rate), us, come;

	for (unsigned i = 0; i < BUCKETS_MAX; i++) {
		struct bucket *at = &b->items[i];

		if (at->rate && at->key == key) {
			place = at;
			break;
		}
		if (place->rate && (!at->rate || instant_before(at->at, place->at)))
			place = at;
	}
	if (place->rate == 0 || place->key != key)
		*place = (struct bucket){ .key = key, .bytes = (int64_t)most, .at = now };
	place->rate = rate;
	us = instant_until(place->at, now).ns / 1000;
	come = us > UINT64_MAX / rate ? UINT64_MAX : rate * us / US_PER_S;
	if (come > 2 * most) { /* full, whatever it owed */
		place->bytes = (int64_t)most;
		place->at = now;
		return place;
	}
	/* Parts of bytes are left for the next time. */
	place->at = instant_add(place->at, (struct duration){ (come * US_PER_S + rate - 1) / rate * 1000 });
	place->bytes += (int64_t)come;
	if (place->bytes > (int64_t)most)
		place->bytes = (int64_t)most;
	return place;
}

uint64_t buckets_take(struct buckets *b, struct instant now, uint64_t key, uint64_t rate, uint64_t bytes,
		      struct instant *ret_at)
{
	struct bucket *bucket;
	uint64_t most;

	if (rate > RATE_MAX)
		rate = RATE_MAX;
	most = piece(rate);
	bucket = bucket_of(b, now, key, rate);
	if (bucket->bytes <= 0) {
		uint64_t lacks = (uint64_t)-bucket->bytes + 1;

		*ret_at = instant_add(now, (struct duration){ (lacks * US_PER_S / rate + 1) * 1000 });
		return 0;
	}
	if (bytes > most)
		bytes = most;
	bucket->bytes -= (int64_t)bytes;
	return bytes;
}
