#include <errno.h>
#include <fcntl.h>

#include "fs/mount/mode.h"
#include "lease/base/rng.h"

#include "unit.h"

static const struct mode_facts sealed = { true, true, true, true };
static const struct mode_facts leased = { true, false, true, true };

static struct mode_answer open_with(struct mode_state *state, const struct mode_facts *facts,
				    int flags, int32_t candidate)
{
	struct mode_answer answer = mode_open(state, facts, mode_request(flags), candidate);

	mode_check_invariants(state);
	return answer;
}

static int32_t release(struct mode_state *state, enum mode mode, int flags)
{
	int32_t id = mode_release(state, mode, mode_request(flags));

	mode_check_invariants(state);
	return id;
}

START_TEST(readers_of_what_may_change_use_pages)
{
	struct mode_state s = { 0 };
	struct mode_answer a;

	ck_assert(!mode_wants_backing(&s, &leased, mode_request(O_RDONLY)));
	a = open_with(&s, &leased, O_RDONLY, 0);
	ck_assert_int_eq(a.mode, MODE_PAGES);
	ck_assert_int_eq(a.backing_id, 0);
	ck_assert_int_eq(release(&s, a.mode, O_RDONLY), 0);
}
END_TEST

START_TEST(writers_are_direct_and_never_pass)
{
	struct mode_state s = { 0 };

	ck_assert(!mode_wants_backing(&s, &sealed, mode_request(O_RDWR)));
	ck_assert(!mode_wants_backing(&s, &sealed, mode_request(O_WRONLY)));
	ck_assert_int_eq(open_with(&s, &leased, O_RDWR, 0).mode, MODE_DIRECT);
	ck_assert_int_eq(open_with(&s, &leased, O_RDONLY, 0).mode, MODE_PAGES);
	ck_assert_int_eq(open_with(&s, &leased, O_WRONLY, 0).mode, MODE_DIRECT);
}
END_TEST

START_TEST(without_room_for_pages_readers_are_direct)
{
	const struct mode_facts facts = { true, false, false, true };
	struct mode_state s = { 0 };

	ck_assert_int_eq(open_with(&s, &facts, O_RDONLY, 0).mode, MODE_DIRECT);
	ck_assert_int_eq(s.direct, 1);
}
END_TEST

START_TEST(sealed_and_complete_passes_with_one_backing_file_until_the_last_release)
{
	struct mode_state s = { 0 };
	struct mode_answer a;

	ck_assert(mode_wants_backing(&s, &sealed, mode_request(O_RDONLY)));
	a = open_with(&s, &sealed, O_RDONLY, 7);
	ck_assert_int_eq(a.mode, MODE_PASSTHROUGH);
	ck_assert_int_eq(a.backing_id, 7);
	ck_assert(!mode_wants_backing(&s, &sealed, mode_request(O_RDONLY)));
	/* Two opens registered at the same time: one id is used, the other was never told. */
	a = open_with(&s, &sealed, O_RDONLY, 8);
	ck_assert_int_eq(a.mode, MODE_PASSTHROUGH);
	ck_assert_int_eq(a.backing_id, 7);
	ck_assert_int_eq(a.unused_id, 8);
	ck_assert_int_eq(release(&s, MODE_PASSTHROUGH, O_RDONLY), 0);
	ck_assert_int_eq(release(&s, MODE_PASSTHROUGH, O_RDONLY), 7);
	/* And then anything. */
	ck_assert_int_eq(open_with(&s, &leased, O_RDWR, 0).mode, MODE_DIRECT);
}
END_TEST

START_TEST(what_is_not_complete_uses_pages)
{
	struct mode_state s = { 0 };

	ck_assert(mode_wants_backing(&s, &sealed, mode_request(O_RDONLY)));
	ck_assert_int_eq(open_with(&s, &sealed, O_RDONLY, 0).mode, MODE_PAGES);
}
END_TEST

START_TEST(pages_keep_passthrough_out_until_they_are_closed)
{
	struct mode_state s = { 0 };
	struct mode_answer a;

	(void)open_with(&s, &sealed, O_RDONLY, 0);
	ck_assert(!mode_wants_backing(&s, &sealed, mode_request(O_RDONLY)));
	/* It registered before the other one was answered. */
	a = open_with(&s, &sealed, O_RDONLY, 5);
	ck_assert_int_eq(a.mode, MODE_PAGES);
	ck_assert_int_eq(a.unused_id, 5);
	(void)release(&s, MODE_PAGES, O_RDONLY);
	(void)release(&s, MODE_PAGES, O_RDONLY);
	ck_assert_int_eq(open_with(&s, &sealed, O_RDONLY, 6).mode, MODE_PASSTHROUGH);
}
END_TEST

START_TEST(direct_readers_keep_passthrough_out_since_they_may_be_mapped)
{
	const struct mode_facts no_pages = { true, true, false, true };
	struct mode_state s = { 0 };

	ck_assert_int_eq(open_with(&s, &no_pages, O_RDONLY, 0).mode, MODE_DIRECT);
	ck_assert(!mode_wants_backing(&s, &sealed, mode_request(O_RDONLY)));
	(void)release(&s, MODE_DIRECT, O_RDONLY);
	ck_assert(mode_wants_backing(&s, &sealed, mode_request(O_RDONLY)));
}
END_TEST

START_TEST(a_writer_keeps_passthrough_out)
{
	struct mode_state s = { 0 };

	(void)open_with(&s, &leased, O_WRONLY, 0);
	ck_assert(!mode_wants_backing(&s, &sealed, mode_request(O_RDONLY)));
	ck_assert_int_eq(open_with(&s, &sealed, O_RDONLY, 3).mode, MODE_PAGES);
	(void)release(&s, MODE_DIRECT, O_WRONLY);
	(void)release(&s, MODE_PAGES, O_RDONLY);
	ck_assert(mode_wants_backing(&s, &sealed, mode_request(O_RDONLY)));
}
END_TEST

START_TEST(passthrough_keeps_writers_out)
{
	struct mode_state s = { 0 };

	(void)open_with(&s, &sealed, O_RDONLY, 9);
	ck_assert_int_eq(open_with(&s, &sealed, O_RDWR, 0).error, EPERM);
	ck_assert_int_eq(open_with(&s, &leased, O_WRONLY, 0).error, ETXTBSY);
	ck_assert_int_eq(s.writers, 0);
	ck_assert_int_eq(release(&s, MODE_PASSTHROUGH, O_RDONLY), 9);
	ck_assert_int_eq(open_with(&s, &leased, O_WRONLY, 0).error, 0);
}
END_TEST

START_TEST(a_reader_beside_passthrough_of_a_lost_seal_asks_the_daemon)
{
	struct mode_state s = { 0 };
	struct mode_answer a;

	(void)open_with(&s, &sealed, O_RDONLY, 4);
	a = open_with(&s, &leased, O_RDONLY, 0);
	ck_assert_int_eq(a.mode, MODE_BRIDGE);
	ck_assert_int_eq(a.backing_id, 4);
	ck_assert_int_eq(release(&s, MODE_PASSTHROUGH, O_RDONLY), 0);
	ck_assert_int_eq(release(&s, MODE_BRIDGE, O_RDONLY), 4);
}
END_TEST

START_TEST(unbuffered_opens_pass_only_where_the_file_system_below_has_them)
{
	const struct mode_facts none = { true, true, true, false };
	struct mode_state s = { 0 };

	ck_assert(mode_wants_backing(&s, &sealed, mode_request(O_RDONLY | O_DIRECT)));
	ck_assert(!mode_wants_backing(&s, &none, mode_request(O_RDONLY | O_DIRECT)));
	ck_assert_int_eq(open_with(&s, &none, O_RDONLY | O_DIRECT, 0).mode, MODE_PAGES);
	(void)release(&s, MODE_PAGES, O_RDONLY);
	(void)open_with(&s, &none, O_RDONLY, 4);
	ck_assert_int_eq(open_with(&s, &none, O_RDONLY | O_DIRECT, 0).error, EINVAL);
}
END_TEST

START_TEST(what_the_user_is_told_is_what_the_next_reader_gets)
{
	const struct mode_facts cannot = { false, true, true, true };
	const struct mode_facts full = { true, false, false, true };
	struct mode_state s = { 0 };
	enum mode_reason reason;

	ck_assert_int_eq(mode_of(&s, &leased, false, &reason), MODE_PAGES);
	ck_assert_int_eq(reason, MODE_NOT_SEALED);
	ck_assert_int_eq(mode_of(&s, &cannot, true, &reason), MODE_PAGES);
	ck_assert_int_eq(reason, MODE_CANNOT_PASS);
	ck_assert_int_eq(mode_of(&s, &sealed, false, &reason), MODE_PAGES);
	ck_assert_int_eq(reason, MODE_INCOMPLETE);
	ck_assert_int_eq(mode_of(&s, &sealed, true, &reason), MODE_PASSTHROUGH);
	ck_assert_int_eq(reason, MODE_IS_SEALED);
	ck_assert_int_eq(mode_of(&s, &full, false, &reason), MODE_DIRECT);
	ck_assert_int_eq(reason, MODE_NO_ROOM);
	(void)open_with(&s, &sealed, O_RDONLY, 0);
	ck_assert_int_eq(mode_of(&s, &sealed, true, &reason), MODE_PAGES);
	ck_assert_int_eq(reason, MODE_OPEN_OTHERWISE);
	(void)open_with(&s, &leased, O_WRONLY, 0);
	ck_assert_int_eq(mode_of(&s, &leased, true, &reason), MODE_DIRECT);
	ck_assert_int_eq(reason, MODE_HAS_WRITER);
	s = (struct mode_state){ 0 };
	(void)open_with(&s, &sealed, O_RDONLY, 2);
	ck_assert_int_eq(mode_of(&s, &leased, true, &reason), MODE_BRIDGE);
	ck_assert_int_eq(reason, MODE_SEAL_LOST);
}
END_TEST

/* ---- against the kernel's rules (fs/fuse/iomode.c) ---- */

#define DESCRIPTORS 6
#define STEPS 20000

struct descriptor {
	bool used, open; /* open: as the kernel sees it; used: its RELEASE has not come */
	enum mode mode;
	int flags;
	int32_t id;
	bool cached; /* counts for the inode's page cache mode */
	bool mapped;
};

struct kernel {
	struct descriptor descriptors[DESCRIPTORS];
	int cached, uncached; /* descriptors */
	int32_t backing;
	bool registered[1000];
};

/* What the kernel does with the answer: false is EIO for the user. */
static bool kernel_takes(struct kernel *k, struct descriptor *d)
{
	bool passes = d->id != 0;

	if (passes && (!k->registered[d->id] || k->cached > 0 ||
		       (k->backing && k->backing != d->id)))
		return false;
	if (!passes && k->backing)
		return false;
	d->open = true;
	d->cached = d->mode == MODE_PAGES;
	k->cached += d->cached;
	if (passes) {
		k->uncached++;
		k->backing = d->id;
	}
	return true;
}

/* A shared mapping. False: ENODEV for the user, of a descriptor that could be mapped at its open. */
static bool kernel_maps(struct kernel *k, struct descriptor *d)
{
	if (d->mode == MODE_DIRECT && (d->flags & O_ACCMODE) != O_WRONLY) {
		if (k->backing)
			return false;
		k->cached += !d->cached;
		d->cached = true;
	}
	return true;
}

/* Its own mode ends before the RELEASE is sent. */
static void kernel_closes(struct kernel *k, struct descriptor *d)
{
	d->open = false;
	k->cached -= d->cached;
	if (d->id && --k->uncached == 0)
		k->backing = 0;
}

static void step_open(struct kernel *k, struct mode_state *s, struct rng *rng,
		      struct descriptor *d)
{
	static const int flags[] = { O_RDONLY, O_RDONLY, O_RDONLY | O_DIRECT, O_RDWR, O_WRONLY };
	struct mode_facts facts = {
		.can_pass = rng_below(rng, 8) != 0,
		.sealed = rng_below(rng, 3) != 0,
		.pages = rng_below(rng, 4) != 0,
		.backs_direct = rng_below(rng, 2) != 0,
	};
	struct mode_answer answer;
	int32_t candidate = 0;

	*d = (struct descriptor){ .flags = flags[rng_below(rng, 5)] };
	/* Registered before, perhaps when other things were open. */
	if (rng_below(rng, 2) && !(d->flags & O_ACCMODE)) {
		for (candidate = 1; k->registered[candidate]; candidate++)
			;
		k->registered[candidate] = true;
	}
	answer = mode_open(s, &facts, mode_request(d->flags), candidate);
	mode_check_invariants(s);
	if (answer.unused_id) {
		ck_assert_int_eq(answer.unused_id, candidate);
		k->registered[candidate] = false;
	}
	if (answer.error)
		return;
	d->used = true;
	d->mode = answer.mode;
	d->id = answer.backing_id;
	ck_assert(!d->id || !mode_request(d->flags).writes);
	ck_assert(!d->id || d->mode == MODE_BRIDGE || facts.sealed);
	ck_assert(kernel_takes(k, d));
}

START_TEST(no_answer_is_one_that_the_kernel_refuses)
{
	struct kernel k = { .cached = 0 };
	struct mode_state s = { 0 };
	struct rng rng;

	rng_init(&rng, 42);
	for (unsigned i = 0; i < STEPS; i++) {
		struct descriptor *d = &k.descriptors[rng_below(&rng, DESCRIPTORS)];

		if (!d->used) {
			step_open(&k, &s, &rng, d);
		} else if (d->open && rng_below(&rng, 3) == 0) {
			ck_assert(kernel_maps(&k, d));
		} else if (d->open) {
			kernel_closes(&k, d); /* with its last mapping */
		} else {
			int32_t id = mode_release(&s, d->mode, mode_request(d->flags));

			d->used = false;
			if (id) {
				ck_assert_int_eq(k.backing, 0);
				k.registered[id] = false;
			}
		}
	}
}
END_TEST

static TCase *mode_case(void)
{
	TCase *tcase = tcase_create("mode");

	tcase_add_test(tcase, readers_of_what_may_change_use_pages);
	tcase_add_test(tcase, writers_are_direct_and_never_pass);
	tcase_add_test(tcase, without_room_for_pages_readers_are_direct);
	tcase_add_test(tcase, sealed_and_complete_passes_with_one_backing_file_until_the_last_release);
	tcase_add_test(tcase, what_is_not_complete_uses_pages);
	tcase_add_test(tcase, pages_keep_passthrough_out_until_they_are_closed);
	tcase_add_test(tcase, direct_readers_keep_passthrough_out_since_they_may_be_mapped);
	tcase_add_test(tcase, a_writer_keeps_passthrough_out);
	tcase_add_test(tcase, passthrough_keeps_writers_out);
	tcase_add_test(tcase, a_reader_beside_passthrough_of_a_lost_seal_asks_the_daemon);
	tcase_add_test(tcase, unbuffered_opens_pass_only_where_the_file_system_below_has_them);
	tcase_add_test(tcase, what_the_user_is_told_is_what_the_next_reader_gets);
	tcase_add_test(tcase, no_answer_is_one_that_the_kernel_refuses);
	return tcase;
}

UNIT_MAIN("mode", mode_case)
