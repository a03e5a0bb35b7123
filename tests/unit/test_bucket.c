/* No more than a rate allows, however it is asked for. */
#include "unit.h"

#include <inttypes.h>

#include "lease/base/rng.h"
#include "prefetch/bucket.h"

#define MIB (UINT64_C(1) << 20)

static struct buckets b;
static struct instant now, at;

static void begin(void)
{
	b = (struct buckets){ 0 };
	now = (struct instant){ 100 * NS_PER_S };
}

/* As much as there is to be had until `end`, in pieces of `bytes`; who has to wait does. */
static uint64_t take_until(struct instant end, uint64_t key, uint64_t rate, uint64_t bytes)
{
	uint64_t sum = 0;

	while (instant_before(now, end)) {
		uint64_t got = buckets_take(&b, now, key, rate, bytes, &at);

		sum += got;
		if (got > bytes || (got == 0 && !instant_before(now, at)))
			ck_abort_msg("%" PRIu64 " of %" PRIu64, got, bytes);
		if (got == 0)
			now = at;
	}
	return sum;
}

START_TEST(over_time_it_is_the_rate)
{
	static const uint64_t rates[] = { 1000, 100000, MIB, 100 * MIB + 3, UINT64_C(1) << 40 };
	static const uint64_t pieces[] = { 1000, 32768, MIB, UINT64_MAX / 4 };

	for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		for (unsigned j = 0; j < sizeof(pieces) / sizeof(pieces[0]); j++) {
			uint64_t burst = rates[i] / BUCKET_SHARE, sum, seconds = 1000;

			if (rates[i] > 1000 * pieces[j])
				continue;
			if (burst < BUCKET_BYTES_MIN)
				burst = BUCKET_BYTES_MIN;
			begin();
			sum = take_until(instant_add(now, duration_ms(1000 * seconds)), 7, rates[i],
					 pieces[j]);
			ck_assert_uint_le(sum, rates[i] * seconds + 2 * burst);
			/* Who waits as long as he is told loses less than a microsecond each time. */
			ck_assert_uint_ge(sum, rates[i] * seconds / 100 * 98);
		}
	}
}
END_TEST

START_TEST(who_was_away_gets_no_more_than_a_share_at_once)
{
	begin();
	take_until(instant_add(now, duration_ms(1000)), 7, 8 * MIB, MIB);
	now = instant_add(now, (struct duration){ 3600 * NS_PER_S });
	ck_assert_uint_eq(buckets_take(&b, now, 7, 8 * MIB, 4 * MIB, &at), MIB);
	ck_assert_uint_eq(buckets_take(&b, now, 7, 8 * MIB, 4 * MIB, &at), 0);
	/* Nor who comes very often, or for the first time. */
	ck_assert_uint_eq(buckets_take(&b, now, 8, 8 * MIB, MIB / 2, &at), MIB / 2);
	ck_assert_uint_eq(buckets_take(&b, now, 8, 8 * MIB, MIB, &at), MIB);
	ck_assert_uint_eq(buckets_take(&b, now, 8, 8 * MIB, MIB, &at), 0);
	/* Of a clock that seems to stand back nothing comes. */
	now.ns -= NS_PER_S;
	ck_assert_uint_eq(buckets_take(&b, now, 8, 8 * MIB, MIB, &at), 0);
}
END_TEST

START_TEST(keys_have_their_own_and_the_oldest_goes)
{
	begin();
	for (uint64_t key = 0; key < BUCKETS_MAX; key++) {
		ck_assert_uint_eq(buckets_take(&b, now, key, 1000, MIB, &at), BUCKET_BYTES_MIN);
		ck_assert_uint_eq(buckets_take(&b, now, key, 1000, MIB, &at), 0);
		now.ns += 1000;
	}
	ck_assert(buckets_take(&b, now, 1000, 1000, MIB, &at) > 0);
	/* Of the others only the first is not known any more. */
	for (uint64_t key = 1; key < BUCKETS_MAX; key++)
		ck_assert_uint_eq(buckets_take(&b, now, key, 1000, MIB, &at), 0);
	ck_assert(buckets_take(&b, now, 0, 1000, MIB, &at) > 0);
}
END_TEST

START_TEST(the_rate_may_change)
{
	begin();
	take_until(instant_add(now, duration_ms(5000)), 1, 100 * MIB, MIB);
	ck_assert_uint_le(take_until(instant_add(now, duration_ms(10000)), 1, MIB, MIB), 11 * MIB);
	ck_assert_uint_ge(take_until(instant_add(now, duration_ms(10000)), 1, 100 * MIB, MIB), 980 * MIB);
}
END_TEST

static TCase *bucket_case(void)
{
	TCase *tcase = tcase_create("bucket");

	tcase_add_test(tcase, over_time_it_is_the_rate);
	tcase_add_test(tcase, who_was_away_gets_no_more_than_a_share_at_once);
	tcase_add_test(tcase, keys_have_their_own_and_the_oldest_goes);
	tcase_add_test(tcase, the_rate_may_change);
	return tcase;
}

UNIT_MAIN("bucket", bucket_case)
