#include "unit.h"

#include "fs/mount/packed.h"

struct fixture {
	struct slab slab;
	struct kinds kinds;
	struct packed packed;
};

static void begin(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	slab_init(&f->slab);
	kinds_init(&f->kinds, &f->slab);
}

static void end(struct fixture *f)
{
	packed_clear(&f->kinds, &f->packed);
	kinds_finish(&f->kinds);
	slab_finish(&f->slab);
}

static const struct attributes ordinary = {
	.inode = 4711,
	.size = 123456789,
	.blocks = 241128,
	.mode = 0100644,
	.nlink = 1,
	.uid = 1000,
	.gid = 100,
	.atime_s = 1700000000,
	.mtime_s = 1600000000,
	.ctime_s = 1650000000,
	.atime_ns = 999999999,
	.mtime_ns = 1,
};

/* Field by field: there is padding. */
static bool same(const struct attributes *a, const struct attributes *b)
{
	return a->inode == b->inode && a->size == b->size && a->blocks == b->blocks &&
	       a->rdev == b->rdev && a->mode == b->mode && a->nlink == b->nlink &&
	       a->uid == b->uid && a->gid == b->gid && a->atime_s == b->atime_s &&
	       a->mtime_s == b->mtime_s && a->ctime_s == b->ctime_s && a->atime_ns == b->atime_ns &&
	       a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

static void check(struct fixture *f, struct attributes a)
{
	struct attributes b;

	ck_assert_int_eq(packed_set(&f->kinds, &f->packed, &a), 0);
	b = packed_get(&f->kinds, &f->packed);
	ck_assert(same(&a, &b));
	ck_assert_uint_eq(packed_mode(&f->kinds, &f->packed), a.mode);
}

START_TEST(what_is_packed_comes_out_as_it_went_in)
{
	static const uint64_t seconds[] = { 0, 1, 4102444800, INT64_MAX / NS_PER_S,
					    INT64_MAX / NS_PER_S + 1, INT64_MAX, UINT64_MAX,
					    (uint64_t)INT64_MIN, (uint64_t)-9223372036,
					    (uint64_t)-9223372037, (uint64_t)-1 };
	struct fixture f;
	struct attributes a = ordinary, none;

	begin(&f);
	none = packed_get(&f.kinds, &f.packed);
	ck_assert(same(&none, &(struct attributes){ 0 }));
	ck_assert_uint_eq(packed_mode(&f.kinds, &f.packed), 0);
	check(&f, ordinary);
	for (unsigned i = 0; i < sizeof(seconds) / sizeof(seconds[0]); i++) {
		a.mtime_s = seconds[i];
		for (a.mtime_ns = 0; a.mtime_ns < NS_PER_S; a.mtime_ns += 333333333)
			check(&f, a);
	}
	a = ordinary;
	a.atime_ns = UINT32_MAX; /* no origin says so, but it may not be lost */
	check(&f, a);
	a = ordinary;
	a.blocks = UINT64_MAX;
	a.size = UINT64_MAX;
	a.inode = UINT64_MAX;
	check(&f, a);
	a = ordinary;
	a.mode = 060600;
	a.rdev = 0x801;
	check(&f, a);
	check(&f, ordinary);
	check(&f, (struct attributes){ 0 });
	end(&f);
}
END_TEST

START_TEST(what_is_ordinary_needs_nothing_apart)
{
	struct fixture f;
	struct attributes a = ordinary;

	begin(&f);
	for (unsigned i = 0; i < 1000; i++) {
		a.inode++;
		a.size += i;
		a.mtime_s++;
		check(&f, a);
	}
	ck_assert_uint_eq(f.slab.object_count, 0);
	ck_assert_uint_eq(f.kinds.count, 1);
	a.rdev = 1;
	check(&f, a);
	check(&f, ordinary);
	ck_assert_uint_eq(f.slab.object_count, 0); /* it was given back */
	end(&f);
}
END_TEST

START_TEST(more_kinds_than_there_may_be_are_kept_apart)
{
	struct fixture f;
	struct attributes a = ordinary, b;
	static struct packed first[300];

	begin(&f);
	memset(first, 0, sizeof(first));
	for (uint32_t i = 0; i < KIND_COUNT_MAX + 1000; i++) {
		struct packed *at = i < 300 ? &first[i] : &f.packed;

		a.uid = i;
		a.nlink = i % 7;
		if (packed_set(&f.kinds, at, &a) != 0)
			ck_abort_msg("no memory");
		b = packed_get(&f.kinds, at);
		if (!same(&a, &b))
			ck_abort_msg("kind %u is another", i);
	}
	ck_assert_uint_eq(f.kinds.count, KIND_COUNT_MAX);
	for (uint32_t i = 0; i < 300; i++) {
		b = packed_get(&f.kinds, &first[i]);
		ck_assert_uint_eq(b.uid, i);
		ck_assert_uint_eq(b.nlink, i % 7);
		packed_clear(&f.kinds, &first[i]);
	}
	end(&f);
}
END_TEST

static TCase *packed_case(void)
{
	TCase *tcase = tcase_create("packed");

	tcase_add_test(tcase, what_is_packed_comes_out_as_it_went_in);
	tcase_add_test(tcase, what_is_ordinary_needs_nothing_apart);
	tcase_add_test(tcase, more_kinds_than_there_may_be_are_kept_apart);
	return tcase;
}

UNIT_MAIN("packed", packed_case)
