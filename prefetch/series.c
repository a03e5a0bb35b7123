/*
 * series.c - the next files of a numbered series: shard-00001.tar, part-7-of-64, name.0.ext.
 *
 * Each number in a name may be the one that counts. A series is known by its directory and by what is
 * around the number, once for each reader (workers that share a series have a fixed step each) and once
 * for all of them together (in which they come a little out of order).
 */
#include "prefetch/predictors_private.h"

#include "lease/base/rng.h"

#define NUMBERS_MAX 4u    /* in a name, from its end */
#define DIGITS_MAX 18u    /* fits 64 bits */
#define FILES_MAX 16u     /* ahead */
#define STEP_MAX 4096
/* How much out of order readers are that share a series. */
#define SLACK 4u

struct number {
	size_t start, length;
	uint64_t value;
};

static bool is_digit(uint8_t c)
{
	return c >= '0' && c <= '9';
}

static unsigned find_numbers(struct slice name, struct number *numbers)
{
	unsigned count = 0;

	for (size_t end = name.length; end > 0 && count < NUMBERS_MAX;) {
		struct number n = { .start = end };

		if (!is_digit(name.data[end - 1])) {
			end--;
			continue;
		}
		while (n.start > 0 && is_digit(name.data[n.start - 1]))
			n.start--;
		n.length = end - n.start;
		end = n.start;
		if (n.length > DIGITS_MAX)
			continue;
		for (size_t i = 0; i < n.length; i++)
			n.value = n.value * 10 + (name.data[n.start + i] - '0');
		numbers[count++] = n;
	}
	return count;
}

static uint64_t hash_bytes(uint64_t hash, const uint8_t *data, size_t length)
{
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ data[i]) * UINT64_C(0x100000001b3);
	return hash;
}

static uint64_t series_key(const struct access *access, const struct number *n, uint64_t who)
{
	uint64_t hash = rng_mix(access->directory) ^ rng_mix(who + 1);
	size_t behind = n->start + n->length;

	hash = hash_bytes(hash, access->name.data, n->start);
	hash = hash_bytes(hash, (const uint8_t *)"#", 1);
	return hash_bytes(hash, access->name.data + behind, access->name.length - behind);
}

/* The name with another number in it; length 0: too long. */
static struct slice with_number(struct slice name, const struct number *n, uint64_t value,
				uint8_t width, uint8_t *buffer)
{
	size_t behind = n->start + n->length, digits = 1;
	uint8_t *at;

	for (uint64_t v = value; v >= 10; v /= 10)
		digits++;
	digits = most(digits, width);
	if (n->start + digits + name.length - behind > INTENT_NAME_MAX)
		return (struct slice){ 0 };
	memcpy(buffer, name.data, n->start);
	at = buffer + n->start;
	for (size_t i = digits; i > 0; i--, value /= 10)
		at[i - 1] = (uint8_t)('0' + value % 10);
	memcpy(at + digits, name.data + behind, name.length - behind);
	return (struct slice){ buffer, n->start + digits + name.length - behind };
}

static void wish_next(struct predictors *p, struct series *s, const struct access *access,
		      const struct number *n, struct intents *intents)
{
	struct intent intent = { .type = INTENT_FILE, .predictor = PREDICTOR_SERIES,
				 .directory = access->directory, .length = UINT64_MAX };
	uint64_t count = UINT64_C(1) << least(s->confirmed, 4);
	uint8_t buffer[INTENT_NAME_MAX];

	count = least(count, FILES_MAX);
	if (access->size)
		count = least(count, most(p->config.files_bytes_max / access->size, 1));
	for (uint64_t i = 1; i <= count; i++) {
		int64_t value = (int64_t)n->value + s->step * (int64_t)i;
		struct slice name;

		if (value < 0)
			return;
		/* Farther than what was wished for before. */
		if (s->step > 0 ? (uint64_t)value <= s->ahead : (uint64_t)value >= s->ahead)
			continue;
		name = with_number(access->name, n, (uint64_t)value, s->width, buffer);
		/* Each file is as many reads as it has MiB, more or less. */
		intent.distance = (uint32_t)(i * least(most(access->size / MIB, 1), 1u << 20));
		if (!name.length || !predictors_wish(p, intents, &intent, name))
			return;
		s->ahead = (uint64_t)value;
	}
}

static struct series *find_series(struct predictors *p, const struct access *access,
				  const struct number *n, uint64_t who, bool *ret_new)
{
	uint64_t key = series_key(access, n, who);
	struct series *s = table_get(&p->series, key);

	*ret_new = !s;
	if (!s) {
		s = table_add(&p->series, key, NULL);
		s->last = s->ahead = n->value;
	}
	if (n->length > 1 && access->name.data[n->start] == '0')
		s->width = (uint8_t)n->length;
	return s;
}

static void restart(struct series *s, uint64_t value, int64_t step)
{
	s->step = step;
	s->confirmed = 0;
	s->last = s->ahead = value;
}

/* One reader: a fixed step, twice. */
static void reader_next(struct predictors *p, const struct access *access, const struct number *n,
			struct intents *intents)
{
	bool new;
	struct series *s = find_series(p, access, n, access->reader, &new);
	int64_t step = (int64_t)(n->value - s->last);

	if (new || step == 0)
		return;
	if (step != s->step) {
		restart(s, n->value, step <= STEP_MAX && step >= -STEP_MAX ? step : 0);
		return;
	}
	s->last = n->value;
	s->confirmed++;
	wish_next(p, s, access, n, intents);
}

/* All of them together: upwards by one, nearly. True: this is how the series is read. */
static bool all_next(struct predictors *p, const struct access *access, const struct number *n,
		     struct intents *intents)
{
	bool new;
	struct series *s = find_series(p, access, n, 0, &new);
	uint64_t value = n->value;

	if (new) {
		s->step = 1;
		return false;
	}
	if (value <= s->last)  {
		if (s->last - value > SLACK)
			restart(s, value, 1);
		return s->confirmed >= SLACK;
	}
	if (value - s->last > SLACK) {
		restart(s, value, 1);
		return false;
	}
	/* The next one at once is as good a sign as several that are near. */
	s->confirmed += value - s->last == 1 || s->confirmed ? 1 : 0;
	if (value - s->last > 1 && s->confirmed < SLACK) {
		restart(s, value, 1);
		return false;
	}
	s->last = value;
	if (s->ahead < value)
		s->ahead = value;
	wish_next(p, s, access, n, intents);
	return true;
}

void predict_series_visit(struct predictors *p, const struct access *access, struct intents *intents)
{
	struct number numbers[NUMBERS_MAX];
	unsigned count;

	if (!access->name.length || !access->directory)
		return;
	count = find_numbers(access->name, numbers);
	for (unsigned i = 0; i < count; i++)
		if (!all_next(p, access, &numbers[i], intents) && access->reader)
			reader_next(p, access, &numbers[i], intents);
}
