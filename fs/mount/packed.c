#include "fs/mount/packed.h"

#include <errno.h>
#include <stdlib.h>

#include "lease/base/rng.h"

#define CAPACITY_MIN 64
#define NOT_ONE 0        /* a number of no kind: items[i] has i + 1 */
#define APART UINT16_MAX /* the attributes are where `apart` points to */

void kinds_init(struct kinds *kinds, struct slab *slab)
{
	*kinds = (struct kinds){ .slab = slab };
}

void kinds_finish(struct kinds *kinds)
{
	free(kinds->items);
	free(kinds->places);
	*kinds = (struct kinds){ 0 };
}

/* ---- kinds ---- */

static bool kind_equal(const struct kind *a, const struct kind *b)
{
	return a->mode == b->mode && a->nlink == b->nlink && a->uid == b->uid && a->gid == b->gid;
}

/* Where it is, or the free place where it would be. */
static uint16_t *place_of(const struct kinds *kinds, const struct kind *kind)
{
	uint32_t mask = kinds->capacity * 2 - 1;
	uint64_t hash = rng_mix((uint64_t)kind->mode << 32 | kind->nlink);
	uint32_t at = (uint32_t)rng_mix(hash ^ ((uint64_t)kind->uid << 32 | kind->gid)) & mask;

	while (kinds->places[at] && !kind_equal(&kinds->items[kinds->places[at] - 1], kind))
		at = (at + 1) & mask;
	return &kinds->places[at];
}

static bool kinds_grow(struct kinds *kinds)
{
	uint32_t capacity = kinds->capacity ? kinds->capacity * 2 : CAPACITY_MIN;
	uint16_t *places = calloc((size_t)capacity * 2, sizeof(*places));
	struct kind *items = places ? reallocarray(kinds->items, capacity, sizeof(*items)) : NULL;

	if (!items) {
		free(places);
		return false;
	}
	free(kinds->places);
	kinds->items = items;
	kinds->places = places;
	kinds->capacity = capacity;
	for (uint32_t i = 0; i < kinds->count; i++)
		*place_of(kinds, &items[i]) = (uint16_t)(i + 1);
	return true;
}

/* NOT_ONE: there are too many, or there is no memory. */
static uint16_t kind_number(struct kinds *kinds, const struct kind *kind)
{
	uint16_t *place;

	if (kinds->latest && kind_equal(&kinds->items[kinds->latest - 1], kind))
		return kinds->latest;
	place = kinds->capacity ? place_of(kinds, kind) : NULL;
	if (!place || !*place) {
		if (kinds->count == KIND_COUNT_MAX)
			return NOT_ONE;
		if (kinds->count == kinds->capacity && !kinds_grow(kinds))
			return NOT_ONE;
		place = place_of(kinds, kind);
		kinds->items[kinds->count++] = *kind;
		*place = (uint16_t)kinds->count;
	}
	kinds->latest = *place;
	return *place;
}

/* ---- times ---- */

static bool time_pack(uint64_t s, uint32_t ns, int64_t *ret_packed)
{
	int64_t packed;

	return ns < NS_PER_S && !__builtin_mul_overflow((int64_t)s, (int64_t)NS_PER_S, &packed) &&
	       !__builtin_add_overflow(packed, (int64_t)ns, ret_packed);
}

static void time_unpack(int64_t packed, uint64_t *ret_s, uint32_t *ret_ns)
{
	int64_t s = packed / (int64_t)NS_PER_S, ns = packed % (int64_t)NS_PER_S;

	if (ns < 0) {
		ns += (int64_t)NS_PER_S;
		s--;
	}
	*ret_s = (uint64_t)s;
	*ret_ns = (uint32_t)ns;
}

/* ---- attributes ---- */

void packed_clear(struct kinds *kinds, struct packed *packed)
{
	if (packed->kind == APART)
		slab_free(kinds->slab, packed->apart, sizeof(*packed->apart));
	memset(packed, 0, sizeof(*packed));
}

static int set_apart(struct kinds *kinds, struct packed *packed, const struct attributes *a)
{
	struct attributes *apart = packed->kind == APART ?
			packed->apart : slab_allocate(kinds->slab, sizeof(*apart));

	if (!apart)
		return -ENOMEM;
	*apart = *a;
	packed->apart = apart;
	packed->kind = APART;
	return 0;
}

int packed_set(struct kinds *kinds, struct packed *packed, const struct attributes *a)
{
	struct kind kind = { .mode = a->mode, .nlink = a->nlink, .uid = a->uid, .gid = a->gid };
	struct packed new = {
		.inode = a->inode,
		.size = a->size,
		.blocks = (uint32_t)a->blocks,
	};

	if (a->rdev != 0 || a->blocks > UINT32_MAX || !time_pack(a->atime_s, a->atime_ns, &new.atime_ns) ||
	    !time_pack(a->mtime_s, a->mtime_ns, &new.mtime_ns) ||
	    !time_pack(a->ctime_s, a->ctime_ns, &new.ctime_ns))
		return set_apart(kinds, packed, a);
	new.kind = kind_number(kinds, &kind);
	if (new.kind == NOT_ONE)
		return set_apart(kinds, packed, a);
	packed_clear(kinds, packed);
	*packed = new;
	return 0;
}

struct attributes packed_get(const struct kinds *kinds, const struct packed *packed)
{
	const struct kind *kind;
	struct attributes a = { 0 };

	if (packed->kind == APART)
		return *packed->apart;
	if (packed->kind == NOT_ONE)
		return a;
	kind = &kinds->items[packed->kind - 1];
	a.inode = packed->inode;
	a.size = packed->size;
	a.blocks = packed->blocks;
	a.mode = kind->mode;
	a.nlink = kind->nlink;
	a.uid = kind->uid;
	a.gid = kind->gid;
	time_unpack(packed->atime_ns, &a.atime_s, &a.atime_ns);
	time_unpack(packed->mtime_ns, &a.mtime_s, &a.mtime_ns);
	time_unpack(packed->ctime_ns, &a.ctime_s, &a.ctime_ns);
	return a;
}

uint32_t packed_mode(const struct kinds *kinds, const struct packed *packed)
{
	if (packed->kind == APART)
		return packed->apart->mode;
	return packed->kind == NOT_ONE ? 0 : kinds->items[packed->kind - 1].mode;
}
