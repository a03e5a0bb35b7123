#include "fs/cache/policy.h"

#include <assert.h>
#include <errno.h>

#define TICKS 4096u /* in which bytes_max pass */
/* The window's share of the cache, and where it ends to grow with the items that come. */
#define WINDOW_SHARE 32
#define WINDOW_SHARE_LARGE 8
/* Uses closer than this, or than the item is large, are one: bytes that were asked for come late. */
#define TICKS_TOGETHER (TICKS / 16)
#define TICKS_CHOICE (TICKS / 64) /* between two choices of the distance */
/* How long what is not protected stays on average: d_e of PDP. */
#define TICKS_LAG (TICKS / 16)
/* As long as fewer reuses were seen than say anything. */
#define REUSES_MIN 16
#define TICKS_PROTECT_DEFAULT (4 * TICKS)
#define TICKS_FIRST (TICKS / 32)
#define TICKS_FORGOTTEN (64 * TICKS)
#define OCTAVE 8u
#define GHOST_WAYS 4u
#define REUSE 256u /* in fixed point: sums fall to a half in each TICKS_DECAY */
#define TICKS_DECAY (TICKS / 2)
#define SEARCH_MAX 256 /* items that are looked at for one that outlived its time, or of a quota */

struct policy_ghost {
	uint32_t tag; /* 0: none */
	uint32_t used;
};

static struct policy_ghost *ghosts_make(struct policy *p, uint32_t count)
{
	struct policy_ghost *ghosts =
		p->allocator->resize(p->allocator->context, NULL, 0, count * sizeof(*ghosts));

	if (ghosts)
		memset(ghosts, 0, count * sizeof(*ghosts));
	return ghosts;
}

static void set_scale(struct policy *p, uint64_t bytes)
{
	p->scale = bytes;
	p->tick_bytes = bytes / TICKS ? bytes / TICKS : 1;
	p->passed_bytes = 0;
	p->window_bytes = bytes / WINDOW_SHARE;
	p->protect = TICKS_PROTECT_DEFAULT;
	memset(p->seen, 0, sizeof(p->seen));
}

void policy_limit(struct policy *p, uint64_t bytes)
{
	p->limit = bytes < p->bytes_max ? bytes : p->bytes_max;
	/* Distances are measured anew when they mean something else. */
	if (p->limit < p->scale / 2 || (p->scale < p->bytes_max && p->limit / 2 > p->scale))
		set_scale(p, p->limit);
}

uint64_t policy_bytes(const struct policy *p)
{
	return p->lists[POLICY_WINDOW].bytes + p->lists[POLICY_MAIN].bytes +
	       p->lists[POLICY_PINNED].bytes + p->lists[POLICY_KEPT].bytes +
	       p->lists[POLICY_DONE].bytes;
}

int policy_init(struct policy *p, const struct allocator *allocator, uint64_t bytes_max)
{
	memset(p, 0, sizeof(*p));
	p->allocator = allocator;
	p->bytes_max = bytes_max;
	p->limit = bytes_max;
	set_scale(p, bytes_max);
	p->ghost_count = POLICY_GHOSTS_MIN;
	p->ghosts = ghosts_make(p, p->ghost_count);
	return p->ghosts ? 0 : -ENOMEM;
}

void policy_finish(struct policy *p)
{
	if (p->ghosts)
		p->allocator->resize(p->allocator->context, p->ghosts,
				     p->ghost_count * sizeof(*p->ghosts), 0);
	p->ghosts = NULL;
}

/* ---- the lists ---- */

static void list_add(struct policy *p, struct policy_item *item, enum policy_place place)
{
	struct policy_list *list = &p->lists[place];

	assert(item->place == POLICY_NOWHERE);
	item->place = (uint8_t)place;
	item->newer = NULL;
	item->older = list->newest;
	if (list->newest)
		list->newest->newer = item;
	else
		list->oldest = item;
	list->newest = item;
	list->bytes += item->bytes;
	p->groups[item->group].bytes += item->bytes;
}

/* At the other end: as if it was used when the oldest there was, and at least `age_min` ago. */
static void list_add_oldest(struct policy *p, struct policy_item *item, enum policy_place place,
			    uint32_t age_min)
{
	struct policy_list *list = &p->lists[place];

	assert(item->place == POLICY_NOWHERE);
	item->used = list->oldest ? list->oldest->used : p->now;
	if (p->now - item->used < age_min)
		item->used = p->now - age_min;
	item->place = (uint8_t)place;
	item->older = NULL;
	item->newer = list->oldest;
	if (list->oldest)
		list->oldest->older = item;
	else
		list->newest = item;
	list->oldest = item;
	list->bytes += item->bytes;
	p->groups[item->group].bytes += item->bytes;
}

static void list_remove(struct policy *p, struct policy_item *item)
{
	struct policy_list *list = &p->lists[item->place];

	if (item->newer)
		item->newer->older = item->older;
	else
		list->newest = item->older;
	if (item->older)
		item->older->newer = item->newer;
	else
		list->oldest = item->newer;
	list->bytes -= item->bytes;
	p->groups[item->group].bytes -= item->bytes;
	item->place = POLICY_NOWHERE;
	item->newer = item->older = NULL;
}

static void list_move(struct policy *p, struct policy_item *item, enum policy_place place)
{
	list_remove(p, item);
	list_add(p, item, place);
}

/* ---- ghosts ---- */

static uint32_t age(const struct policy *p, uint32_t used)
{
	return p->now - used;
}

static uint32_t tag_of(uint64_t hash)
{
	uint32_t tag = (uint32_t)(hash >> 16);

	return tag ? tag : 1;
}

/* The place for a tag: its own, or else the oldest of its set. */
static struct policy_ghost *ghost_slot(struct policy *p, uint32_t tag)
{
	struct policy_ghost *set = &p->ghosts[(tag & (p->ghost_count / GHOST_WAYS - 1)) * GHOST_WAYS];
	struct policy_ghost *oldest = set;

	for (unsigned i = 0; i < GHOST_WAYS; i++) {
		if (set[i].tag == tag)
			return &set[i];
		if (!set[i].tag || (oldest->tag && age(p, set[i].used) > age(p, oldest->used)))
			oldest = &set[i];
	}
	return oldest;
}

static void ghosts_grow(struct policy *p)
{
	struct policy_ghost *old = p->ghosts;
	uint32_t count = p->ghost_count;
	struct policy_ghost *larger = ghosts_make(p, count * 2);

	p->ghosts_lost = 0;
	if (!larger)
		return; /* it remembers less */
	p->ghosts = larger;
	p->ghost_count = count * 2;
	for (uint32_t i = 0; i < count; i++)
		if (old[i].tag)
			*ghost_slot(p, old[i].tag) = old[i];
	p->allocator->resize(p->allocator->context, old, count * sizeof(*old), 0);
}

static void ghost_remember(struct policy *p, uint64_t hash, uint32_t used)
{
	uint32_t tag = tag_of(hash);
	struct policy_ghost *ghost = ghost_slot(p, tag);

	if (ghost->tag && ghost->tag != tag && age(p, ghost->used) < TICKS_FORGOTTEN / 4)
		p->ghosts_lost++;
	*ghost = (struct policy_ghost){ tag, used };
	if (p->ghosts_lost > p->ghost_count / 8 && p->ghost_count < POLICY_GHOSTS_MAX)
		ghosts_grow(p);
}

/* When it was used last, if that is remembered: then it is forgotten. */
static bool ghost_take(struct policy *p, uint64_t hash, uint32_t *ret_used)
{
	struct policy_ghost *ghost = ghost_slot(p, tag_of(hash));

	if (ghost->tag != tag_of(hash))
		return false;
	*ret_used = ghost->used;
	ghost->tag = 0;
	return age(p, *ret_used) < TICKS_FORGOTTEN;
}

/* ---- what the reuse distances say ---- */

/* The largest distance in a bucket. */
static uint32_t bucket_end(unsigned bucket)
{
	uint32_t octave = TICKS_FIRST << (bucket / OCTAVE);

	return octave + octave / OCTAVE * (bucket % OCTAVE + 1);
}

static void note_distance(struct policy *p, uint32_t distance)
{
	unsigned bucket = 0;

	while (bucket < POLICY_BUCKETS - 1 && distance > bucket_end(bucket))
		bucket++;
	if (distance <= bucket_end(bucket))
		p->seen[bucket] += REUSE;
}

/*
 * PDP's estimate for each distance d: hits are the uses that come back within d; each of them takes
 * its distance of room times time, and every later one takes d and the lag. Unlike there, what does
 * not come back at all is not counted: for most of it, that is not known yet.
 */
static void choose(struct policy *p)
{
	double best = 0, all = 0, hits = 0, taken = 0;
	uint32_t start = 0;

	p->protect = TICKS_PROTECT_DEFAULT;
	for (unsigned i = 0; i < POLICY_BUCKETS; i++)
		all += p->seen[i];
	if (all < REUSES_MIN * REUSE)
		return;
	for (unsigned i = 0; i < POLICY_BUCKETS; i++) {
		uint32_t end = bucket_end(i);
		double value;

		hits += p->seen[i];
		taken += (double)p->seen[i] * (start + end) / 2;
		value = hits / (taken + (all - hits) * (end + TICKS_LAG) + 1);
		if (p->seen[i] && value > best) {
			best = value;
			p->protect = end + end / OCTAVE + TICKS_LAG;
		}
		start = end;
	}
}

void policy_pass(struct policy *p, uint64_t bytes)
{
	p->passed_bytes += bytes;
	p->now += (uint32_t)(p->passed_bytes / p->tick_bytes);
	p->passed_bytes %= p->tick_bytes;
	if (p->now - p->decayed_at >= 64 * TICKS_DECAY) { /* nothing would be left */
		memset(p->seen, 0, sizeof(p->seen));
		p->decayed_at = p->now;
	}
	while (p->now - p->decayed_at >= TICKS_DECAY) {
		for (unsigned i = 0; i < POLICY_BUCKETS; i++)
			p->seen[i] -= p->seen[i] / 2;
		p->window_bytes -= (p->window_bytes - p->scale / WINDOW_SHARE) / 4;
		p->decayed_at += TICKS_DECAY;
	}
	if (p->now - p->chosen_at >= TICKS_CHOICE) {
		choose(p);
		p->chosen_at = p->now;
	}
}

/* ---- items ---- */

static bool is_protected(const struct policy *p, const struct policy_item *item)
{
	return age(p, item->used) <= p->protect;
}

static bool main_has_room(const struct policy *p, uint64_t bytes)
{
	uint64_t taken = p->window_bytes + p->lists[POLICY_MAIN].bytes + p->lists[POLICY_PINNED].bytes +
			 p->lists[POLICY_KEPT].bytes;

	return taken <= p->limit && bytes <= p->limit - taken;
}

/*
 * Room for what is new, or for one that was used before: for that one something else goes. New ones
 * are going to grow; and with one limit only, items would go and come in turns there.
 */
static bool main_takes(const struct policy *p, uint64_t bytes, bool again)
{
	const struct policy_item *oldest = p->lists[POLICY_MAIN].oldest;

	return main_has_room(p, bytes + p->window_bytes / 4 * 3) ||
	       (again && oldest && !is_protected(p, oldest));
}

static bool is_another_use(const struct policy *p, const struct policy_item *item, uint32_t used)
{
	uint64_t ticks = item->bytes / p->tick_bytes;

	return age(p, used) > TICKS_TOGETHER && age(p, used) > ticks;
}

/* ---- what is kept ---- */

static void touch(struct policy *p, struct policy_item *item)
{
	item->used = p->now;
	item->used_s = p->now_s;
}

static bool is_wanted(const struct policy *p, const struct policy_item *item)
{
	return item->kept || p->groups[item->group].kept;
}

/* Not kept any more, and the next to go of its kind. */
static void demote(struct policy *p, struct policy_item *item)
{
	list_remove(p, item);
	list_add_oldest(p, item, POLICY_MAIN, p->protect + 1);
}

/* There is room for `bytes` more in what is kept; what was not used for long makes some. */
static bool kept_has_room(struct policy *p, uint64_t bytes, const struct policy_item *self)
{
	const struct policy_list *list = &p->lists[POLICY_KEPT];
	uint64_t max = POLICY_KEPT_SHARE(p->limit);

	while (bytes <= max && list->bytes > max - bytes && list->oldest && list->oldest != self &&
	       !is_protected(p, list->oldest))
		demote(p, list->oldest);
	return bytes <= max && list->bytes <= max - bytes;
}

/* Where an item is that would be at `place` if nobody wanted it kept. */
static enum policy_place home(struct policy *p, struct policy_item *item, enum policy_place place)
{
	uint64_t bytes = item->place == POLICY_KEPT ? 0 : item->bytes;

	if (!is_wanted(p, item))
		return place == POLICY_KEPT ? POLICY_MAIN : place;
	return kept_has_room(p, bytes, item) ? POLICY_KEPT : place == POLICY_KEPT ? POLICY_MAIN : place;
}

void policy_expect(struct policy *p, struct policy_item *item, uint64_t bytes)
{
	if (item->place == POLICY_KEPT && !kept_has_room(p, bytes, item)) {
		touch(p, item);
		list_move(p, item, POLICY_MAIN);
	}
}

bool policy_is_kept(const struct policy_item *item)
{
	return item->place == POLICY_KEPT || item->place == POLICY_PINNED || item->bytes == 0;
}

void policy_regroup(struct policy *p, struct policy_item *item, uint8_t group, bool kept)
{
	if (item->place != POLICY_NOWHERE) {
		p->groups[item->group].bytes -= item->bytes;
		p->groups[group].bytes += item->bytes;
	}
	item->group = group;
	item->kept = kept;
	if (item->place == POLICY_KEPT && !is_wanted(p, item)) {
		demote(p, item);
	} else if (item->place != POLICY_NOWHERE && item->place != POLICY_PINNED &&
		   item->place != POLICY_KEPT && is_wanted(p, item) &&
		   kept_has_room(p, item->bytes, item)) {
		item->used = p->now;
		list_move(p, item, POLICY_KEPT);
	}
}

void policy_set_group(struct policy *p, uint8_t index, const struct policy_group *group)
{
	uint64_t bytes = p->groups[index].bytes;
	struct policy_item *item, *newer;

	p->ttl_count -= p->groups[index].ttl_s > 0;
	p->groups[index] = *group;
	p->groups[index].bytes = bytes;
	p->ttl_count += group->ttl_s > 0;
	for (item = p->lists[POLICY_KEPT].oldest; item && !group->kept; item = newer) {
		newer = item->newer;
		if (item->group == index && !item->kept)
			demote(p, item);
	}
}

void policy_time(struct policy *p, uint32_t now_s)
{
	p->now_s = now_s;
}

/* ---- admission ---- */

void policy_access(struct policy *p, struct policy_item *item, uint64_t hash)
{
	uint32_t used;

	if (item->place != POLICY_NOWHERE || item->admitted ||
	    p->groups[item->group].admit != POLICY_ADMIT_SECOND)
		return;
	item->admitted = ghost_take(p, hash, &used);
	ghost_remember(p, hash, p->now);
}

bool policy_may_come(const struct policy *p, const struct policy_item *item)
{
	enum policy_admit admit = p->groups[item->group].admit;

	return admit == POLICY_ADMIT_FIRST ||
	       (admit == POLICY_ADMIT_SECOND && (item->admitted || item->bytes > 0));
}

bool policy_above_quota(const struct policy *p, const struct policy_item *item, uint64_t bytes)
{
	const struct policy_group *group = &p->groups[item->group];
	uint64_t taken = 0;

	if (!group->quota)
		return false;
	for (unsigned i = 1; i < POLICY_GROUPS_MAX; i++)
		if (p->groups[i].quota == group->quota)
			taken += p->groups[i].bytes;
	return bytes > group->quota_bytes || taken > group->quota_bytes - bytes;
}

void policy_admit(struct policy *p, struct policy_item *item, uint64_t hash)
{
	bool again = false;
	uint32_t used = 0;

	if (ghost_take(p, hash, &used) && is_another_use(p, item, used)) {
		note_distance(p, age(p, used));
		again = true;
	}
	touch(p, item);
	list_add(p, item,
		 home(p, item, main_takes(p, item->bytes, again) ? POLICY_MAIN : POLICY_WINDOW));
}

void policy_admit_unused(struct policy *p, struct policy_item *item)
{
	list_add_oldest(p, item, home(p, item, POLICY_MAIN), 0);
}

void policy_use(struct policy *p, struct policy_item *item)
{
	enum policy_place place = item->place;

	if (place == POLICY_NOWHERE || place == POLICY_PINNED) {
		item->used_s = p->now_s;
		return;
	}
	if (is_another_use(p, item, item->used)) {
		note_distance(p, age(p, item->used));
		if (place != POLICY_KEPT && main_takes(p, item->bytes, true))
			place = POLICY_MAIN;
		else if (place == POLICY_DONE)
			place = POLICY_WINDOW;
	}
	place = home(p, item, place);
	touch(p, item);
	list_move(p, item, place);
}

void policy_fill(struct policy *p, struct policy_item *item)
{
	if (item->place == POLICY_NOWHERE || item->place == POLICY_PINNED)
		return;
	touch(p, item);
	list_move(p, item, item->place);
}

void policy_pin(struct policy *p, struct policy_item *item, bool pinned)
{
	if (item->place != POLICY_NOWHERE && pinned != (item->place == POLICY_PINNED)) {
		touch(p, item);
		list_move(p, item, pinned ? POLICY_PINNED : home(p, item, POLICY_MAIN));
	}
}

void policy_done(struct policy *p, struct policy_item *item)
{
	if (item->place == POLICY_NOWHERE || item->place == POLICY_PINNED || item->place == POLICY_KEPT)
		return;
	item->used = p->now;
	list_move(p, item, POLICY_DONE);
}

void policy_resize(struct policy *p, struct policy_item *item, uint64_t bytes)
{
	if (item->place != POLICY_NOWHERE) {
		p->lists[item->place].bytes += bytes - item->bytes;
		p->groups[item->group].bytes += bytes - item->bytes;
	}
	item->bytes = bytes;
}

void policy_remove(struct policy *p, struct policy_item *item, uint64_t hash)
{
	if (item->place == POLICY_NOWHERE)
		return;
	ghost_remember(p, hash, item->used);
	list_remove(p, item);
}

/* ---- victims ---- */

static struct policy_item *next_in_list(struct policy_item *item, const struct policy_item *self)
{
	while (item && (item == self || item->bytes == 0))
		item = item->newer;
	return item;
}

static bool outlived(const struct policy *p, const struct policy_item *item)
{
	uint32_t ttl_s = p->groups[item->group].ttl_s;

	return ttl_s && p->now_s > item->used_s && p->now_s - item->used_s > ttl_s;
}

/* One that outlived its time, among those that were used longest ago. */
static struct policy_item *find_outlived(struct policy *p, const struct policy_item *self)
{
	static const enum policy_place places[] = { POLICY_MAIN, POLICY_WINDOW };

	for (unsigned i = 0; p->ttl_count && i < 2; i++) {
		struct policy_item *item = next_in_list(p->lists[places[i]].oldest, self);

		for (unsigned n = 0; item && n < SEARCH_MAX; n++) {
			if (outlived(p, item))
				return item;
			item = next_in_list(item->newer, self);
		}
	}
	return NULL;
}

/* As is_protected(), in a cache that is as large as the quota. */
static bool is_protected_in(const struct policy *p, const struct policy_item *item,
			    const struct policy_group *group)
{
	uint64_t ticks = TICKS_PROTECT_DEFAULT * (group->quota_bytes / p->tick_bytes) / TICKS;

	return age(p, item->used) <= ticks + TICKS_LAG / OCTAVE;
}

/* One of the quota that `self` is of; NULL: rather nothing more of that comes in. */
static struct policy_item *find_of_quota(struct policy *p, const struct policy_item *self)
{
	static const enum policy_place places[] = { POLICY_DONE, POLICY_WINDOW, POLICY_MAIN };
	const struct policy_group *group = &p->groups[self->group];

	for (unsigned i = 0; i < 3; i++) {
		struct policy_item *item = next_in_list(p->lists[places[i]].oldest, self);

		for (unsigned n = 0; item && n < SEARCH_MAX; n++) {
			if (p->groups[item->group].quota == group->quota &&
			    (places[i] != POLICY_MAIN || self->place == POLICY_KEPT ||
			     outlived(p, item) || !is_protected_in(p, item, group)))
				return item;
			item = next_in_list(item->newer, self);
		}
	}
	return NULL;
}

/* One item at least fits in the window, unless it is large. */
static uint64_t larger_window(const struct policy *p, uint64_t bytes)
{
	uint64_t limit = p->scale / WINDOW_SHARE_LARGE;

	return bytes < limit ? bytes : limit > p->window_bytes ? limit : p->window_bytes;
}

struct policy_item *policy_victim(struct policy *p, struct policy_item *self, uint64_t bytes,
				  const struct policy_item *previous)
{
	struct policy_item *main_oldest, *window_oldest, *item;
	struct policy_item *done = next_in_list(p->lists[POLICY_DONE].oldest, self);
	enum policy_place place;

	if (self && policy_above_quota(p, self, bytes))
		return previous ? NULL : find_of_quota(p, self);
	if (previous && previous->place == POLICY_DONE) {
		done = next_in_list(previous->newer, self);
		previous = NULL;
	} else if (previous) {
		done = NULL;
	}
	if (done)
		return done;
	if (previous)
		return next_in_list(previous->newer, self);
	/* The cache can have less than it had. */
	while (p->lists[POLICY_KEPT].oldest &&
	       p->lists[POLICY_KEPT].bytes > POLICY_KEPT_SHARE(p->limit))
		demote(p, p->lists[POLICY_KEPT].oldest);
	place = self ? (enum policy_place)self->place : POLICY_NOWHERE;
	main_oldest = next_in_list(p->lists[POLICY_MAIN].oldest, self);
	window_oldest = next_in_list(p->lists[POLICY_WINDOW].oldest, self);
	item = find_outlived(p, self);
	if (item)
		return item;
	if (place != POLICY_WINDOW && main_oldest && !is_protected(p, main_oldest))
		return main_oldest;
	if (place == POLICY_KEPT)
		return window_oldest ? window_oldest : main_oldest;
	if (place == POLICY_MAIN && (self->bytes > 0 || main_has_room(p, bytes)))
		return main_has_room(p, bytes) ? window_oldest : NULL;
	if (place == POLICY_MAIN) { /* new, and larger than it seemed */
		list_move(p, self, POLICY_WINDOW);
		place = POLICY_WINDOW;
	}
	if (place == POLICY_WINDOW && self->bytes + bytes > p->window_bytes)
		p->window_bytes = larger_window(p, self->bytes + bytes);
	if (!main_has_room(p, 0))
		return main_oldest;
	/* The window's share is for it; what is not counted here must not take that. */
	if (!window_oldest && (place != POLICY_WINDOW || self->bytes + bytes <= p->window_bytes))
		return main_oldest;
	return window_oldest;
}

static bool list_valid(const struct policy *p, enum policy_place place)
{
	const struct policy_item *item, *older = NULL;
	uint64_t bytes = 0;

	for (item = p->lists[place].oldest; item; item = item->newer) {
		if (item->place != place || item->older != older ||
		    (older && age(p, older->used) < age(p, item->used)))
			return false;
		bytes += item->bytes;
		older = item;
	}
	return p->lists[place].newest == older && p->lists[place].bytes == bytes;
}

bool policy_valid(const struct policy *p)
{
	return list_valid(p, POLICY_WINDOW) && list_valid(p, POLICY_MAIN) &&
	       list_valid(p, POLICY_PINNED) && list_valid(p, POLICY_KEPT) &&
	       list_valid(p, POLICY_DONE);
}
