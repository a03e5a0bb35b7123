#include "prefetch/quiet.h"

static bool is(const struct quiet_item *item, uint64_t directory, struct slice name)
{
	return item->state != QUIET_FREE && item->directory == directory &&
	       item->name_length == name.length &&
	       (name.length == 0 || memcmp(item->name, name.data, name.length) == 0);
}

static struct quiet_item *find(struct quiet *q, uint64_t directory, struct slice name)
{
	for (unsigned i = 0; i < QUIET_COUNT_MAX; i++)
		if (is(&q->items[i], directory, name))
			return &q->items[i];
	return NULL;
}

/* Of a directory as a whole no name waits by itself. The place of one of them, or NULL. */
static struct quiet_item *absorb(struct quiet *q, uint64_t directory)
{
	struct quiet_item *place = NULL;

	for (unsigned i = 0; i < QUIET_COUNT_MAX; i++) {
		struct quiet_item *item = &q->items[i];

		if (item->state != QUIET_WAITS || item->directory != directory || item->name_length == 0)
			continue;
		q->waiting--;
		item->state = QUIET_FREE;
		place = item;
	}
	return place;
}

/* One that is free, or else that was taken longest ago. NULL: all wait. */
static struct quiet_item *place_for(struct quiet *q)
{
	struct quiet_item *place = NULL;

	for (unsigned i = 0; i < QUIET_COUNT_MAX; i++) {
		struct quiet_item *item = &q->items[i];

		if (item->state == QUIET_FREE)
			return item;
		if (item->state == QUIET_TAKEN && (!place || instant_before(item->at, place->at)))
			place = item;
	}
	return place;
}

static uint32_t names_of(const struct quiet *q, uint64_t directory)
{
	uint32_t count = 0;

	for (unsigned i = 0; i < QUIET_COUNT_MAX; i++)
		count += q->items[i].state == QUIET_WAITS && q->items[i].directory == directory;
	return count;
}

static void wait(struct quiet *q, struct instant now, struct quiet_item *item)
{
	item->state = QUIET_WAITS;
	item->at = instant_add(now, item->wait);
	q->waiting++;
}

static void wait_longer(struct quiet *q, struct instant now, struct quiet_item *item)
{
	item->wait.ns *= 2;
	if (item->wait.ns > QUIET_WAIT_MAX.ns)
		item->wait = QUIET_WAIT_MAX;
	wait(q, now, item);
}

void quiet_changed(struct quiet *q, struct instant now, uint64_t directory, struct slice name)
{
	struct quiet_item *whole = find(q, directory, (struct slice){ NULL, 0 });
	struct quiet_item *item = name.length > 0 ? find(q, directory, name) : whole;

	if (name.length > UINT8_MAX || (whole && whole->state == QUIET_WAITS) ||
	    (item && item->state == QUIET_WAITS))
		return;
	if (name.length == 0)
		(void)absorb(q, directory);
	if (item) {
		item->tries = 0;
		if (instant_until(item->at, now).ns < QUIET_SOON * item->wait.ns) {
			wait_longer(q, now, item);
		} else {
			item->wait = QUIET_WAIT;
			wait(q, now, item);
		}
		return;
	}
	item = name.length > 0 && names_of(q, directory) >= QUIET_NAMES_MAX ? NULL : place_for(q);
	if (!item && name.length > 0) {
		/* As a whole, in the place of its names. */
		item = absorb(q, directory);
		name.length = 0;
		if (item && whole) {
			quiet_changed(q, now, directory, name);
			return;
		}
	}
	if (!item) {
		q->dropped++;
		return;
	}
	*item = (struct quiet_item){ .directory = directory, .wait = QUIET_WAIT,
				     .name_length = (uint8_t)name.length };
	if (name.length > 0)
		memcpy(item->name, name.data, name.length);
	wait(q, now, item);
}

void quiet_again(struct quiet *q, struct instant now, uint64_t directory, struct slice name)
{
	struct quiet_item *item = find(q, directory, name);

	if (!item)
		quiet_changed(q, now, directory, name);
	if (!item || item->state != QUIET_TAKEN || item->tries >= QUIET_TRIES_MAX)
		return;
	item->tries++;
	wait_longer(q, now, item);
}

bool quiet_take(struct quiet *q, struct instant now, bool names, struct quiet_item *ret_item)
{
	struct quiet_item *first = NULL;

	for (unsigned i = 0; q->waiting > 0 && i < QUIET_COUNT_MAX; i++) {
		struct quiet_item *item = &q->items[i];

		if (item->state == QUIET_WAITS && !instant_before(now, item->at) &&
		    (!names || item->name_length > 0) && (!first || instant_before(item->at, first->at)))
			first = item;
	}
	if (!first)
		return false;
	first->state = QUIET_TAKEN;
	first->at = now;
	q->waiting--;
	*ret_item = *first;
	return true;
}
