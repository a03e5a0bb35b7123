#include "unit.h"

#include <errno.h>
#include <string.h>

#include "lease/base/rng.h"
#include "transport/compress.h"
#include "transport/server_internal.h"

#define BYTES 20000u

static uint8_t text[BYTES], noise[BYTES];

static void set_up(void)
{
	uint64_t x = 88172645463325252ull;

	for (size_t i = 0; i < BYTES; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		noise[i] = (uint8_t)x;
		text[i] = (uint8_t)("leasehold"[i % 9] + (i % 1000 == 0 ? x % 7 : 0));
	}
}

static void make(struct slice head, struct slice bulk, uint8_t **ret_data, size_t *ret_length)
{
	ck_assert_int_eq(compress_body(head, bulk, head.length + bulk.length + 1000, ret_data,
				       ret_length),
			 0);
}

START_TEST(a_body_comes_out_as_it_went_in)
{
	static const size_t lengths[] = { 0, 1, 100, 4096, BYTES };

	for (unsigned i = 0; i < 5; i++) {
		struct slice head = { noise, 33 }, bulk = { i % 2 ? text : noise, lengths[i] };
		uint8_t *data, *again;
		size_t length, all;

		make(head, bulk, &data, &length);
		ck_assert_int_eq(decompress_body((struct slice){ data, length },
						 33 + lengths[i], &again, &all),
				 0);
		ck_assert_uint_eq(all, 33 + lengths[i]);
		ck_assert_int_eq(memcmp(again, noise, 33), 0);
		ck_assert_int_eq(memcmp(again + 33, bulk.data, bulk.length), 0);
		free(data);
		free(again);
	}
}
END_TEST

START_TEST(what_does_not_get_small_enough_is_not_compressed)
{
	struct slice head = { text, 10 }, bulk = { noise, BYTES };
	uint8_t *data;
	size_t length;

	ck_assert_int_eq(compress_body(head, bulk, BYTES - BYTES / 8, &data, &length), -E2BIG);
	ck_assert_uint_eq(compress_sample(bulk), BYTES);
	ck_assert_uint_lt(compress_sample((struct slice){ text, BYTES }), BYTES / 4);
}
END_TEST

START_TEST(a_damaged_body_is_an_error_and_never_other_bytes)
{
	struct slice head = { text, 10 }, bulk = { text, BYTES };
	uint8_t *data, *again;
	unsigned other = 0, unexpected = 0;
	size_t length, all;

	make(head, bulk, &data, &length);
	for (size_t at = 0; at < length; at++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			int error;

			data[at] ^= (uint8_t)(1u << bit);
			error = decompress_body((struct slice){ data, length }, 2 * BYTES, &again,
						&all);
			/* Some bits mean nothing; then the bytes are right. */
			if (error == 0) {
				other += all != BYTES + 10 || memcmp(again + 10, text, BYTES) != 0;
				free(again);
			} else {
				unexpected += error != -EBADMSG && error != -EMSGSIZE;
			}
			data[at] ^= (uint8_t)(1u << bit);
		}
	}
	for (size_t cut = 0; cut < length; cut++) {
		uint8_t *part = malloc(cut ? cut : 1); /* so that a sanitizer sees its end */

		memcpy(part, data, cut);
		unexpected += decompress_body((struct slice){ part, cut }, 2 * BYTES, &again,
					      &all) != -EBADMSG;
		free(part);
	}
	/* Nothing is asserted for each: that takes Check longer than zstd. */
	ck_assert_uint_eq(other, 0);
	ck_assert_uint_eq(unexpected, 0);
	free(data);
}
END_TEST

START_TEST(bytes_at_random_are_an_error)
{
	static const uint8_t magic[] = { 0x28, 0xb5, 0x2f, 0xfd };
	struct rng rng;
	uint8_t junk[200], *again;
	size_t all;

	rng_init(&rng, 4711);
	for (unsigned i = 0; i < 20000; i++) {
		size_t length = rng_below(&rng, sizeof(junk));

		for (size_t k = 0; k < length; k++)
			junk[k] = (uint8_t)rng_next(&rng);
		if (length >= 4)
			memcpy(junk, magic, 4);
		if (decompress_body((struct slice){ junk, length }, 1 << 20, &again, &all) == 0)
			free(again);
	}
}
END_TEST

START_TEST(what_would_be_too_large_is_refused_unseen)
{
	struct slice head = { text, 10 }, bulk = { text, BYTES };
	/* A frame of 2^56 bytes, of which nothing is there. */
	static const uint8_t bomb[] = { 0x28, 0xb5, 0x2f, 0xfd, 0xe4, 0, 0, 0, 0, 0, 0, 0, 1 };
	uint8_t *data, *again;
	size_t length, all;

	make(head, bulk, &data, &length);
	ck_assert_int_eq(decompress_body((struct slice){ data, length }, BYTES + 9, &again, &all),
			 -EMSGSIZE);
	ck_assert_int_eq(decompress_body((struct slice){ data, length }, BYTES + 10, &again, &all),
			 0);
	free(again);
	free(data);
	ck_assert_int_eq(decompress_body((struct slice){ bomb, sizeof(bomb) }, 1 << 20, &again,
					 &all),
			 -EMSGSIZE);
}
END_TEST

START_TEST(two_frames_are_no_body)
{
	struct slice head = { text, 10 }, bulk = { text, 1000 };
	uint8_t *data, *twice, *again;
	size_t length, all;

	make(head, bulk, &data, &length);
	twice = malloc(2 * length);
	memcpy(twice, data, length);
	memcpy(twice + length, data, length);
	ck_assert_int_eq(decompress_body((struct slice){ twice, 2 * length }, 1 << 20, &again,
					 &all),
			 -EBADMSG);
	free(twice);
	free(data);
}
END_TEST

static bool accepts(const char *value)
{
	return accepts_zstd((const uint8_t *)value, strlen(value));
}

START_TEST(accept_encoding_is_read_as_http_means_it)
{
	ck_assert(accepts("zstd"));
	ck_assert(accepts("gzip, ZSTD"));
	ck_assert(accepts("gzip;q=1.0,zstd ; q=0.5 , br"));
	ck_assert(accepts("zstd;q=0.001"));
	ck_assert(accepts("zstd;Q=1"));
	ck_assert(!accepts(""));
	ck_assert(!accepts(","));
	ck_assert(!accepts("gzip"));
	ck_assert(!accepts("zstdx"));
	ck_assert(!accepts("xzstd"));
	ck_assert(!accepts("zstd;q=0"));
	ck_assert(!accepts("zstd; q=0.000"));
	ck_assert(!accepts("zstd;"));
	ck_assert(!accepts("zstd;x=1"));
}
END_TEST

static TCase *compress_case(void)
{
	TCase *tests = tcase_create("compress");

	tcase_add_checked_fixture(tests, set_up, NULL);
	tcase_set_timeout(tests, 120);
	tcase_add_test(tests, a_body_comes_out_as_it_went_in);
	tcase_add_test(tests, what_does_not_get_small_enough_is_not_compressed);
	tcase_add_test(tests, a_damaged_body_is_an_error_and_never_other_bytes);
	tcase_add_test(tests, bytes_at_random_are_an_error);
	tcase_add_test(tests, what_would_be_too_large_is_refused_unseen);
	tcase_add_test(tests, two_frames_are_no_body);
	tcase_add_test(tests, accept_encoding_is_read_as_http_means_it);
	return tests;
}

UNIT_MAIN("compress", compress_case)
