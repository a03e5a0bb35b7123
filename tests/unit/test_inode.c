#include "unit.h"

#include <sys/stat.h>

#include "fs/mount/inode.h"
#include "fs/mount/session.h"
#include "lease/status.h"

/* A mount with an active session, and nothing else of the daemon. */
struct fixture {
	struct mount m;
	struct holder_actions actions;
};

static struct instant at(uint64_t seconds)
{
	return (struct instant){ (1000000 + seconds) * NS_PER_S };
}

static struct handle handle_of(uint8_t n)
{
	return (struct handle){ 2, { n, 7 } };
}

static void begin(struct fixture *f)
{
	const struct holder_config config = {
		.fence_margin = duration_ms(100),
		.lease_count_max = 1000,
		.recall_window_max = 16,
		.retry_min_ms = 10,
		.retry_max_ms = 100,
	};
	struct message_session_opened opened = {
		.status = STATUS_OK,
		.version = 1,
		.session = 42,
		.epoch = 1,
		.incarnation = 9,
		.term_ms = 30000,
		.drift_ppm = 1000,
		.slot_count = 4,
		.lease_count_max = 1000,
	};

	memset(f, 0, sizeof(*f));
	holder_actions_init(&f->actions, &session_allocator);
	ck_assert_int_eq(inode_table_create(&f->m.inodes), 0);
	ck_assert_int_eq(holder_create(&config, &session_allocator, 1, &f->m.holder), 0);
	holder_connect(f->m.holder, at(0), &f->actions);
	holder_session_opened(f->m.holder, at(0), at(0), &opened, &f->actions);
	holder_stream_attached(f->m.holder, at(0), (struct session_id){ 42 }, &f->actions);
	ck_assert(holder_valid(f->m.holder, at(1)));
}

static void end(struct fixture *f)
{
	inode_table_destroy(&f->m);
	holder_destroy(f->m.holder);
	holder_actions_finish(&f->actions);
}

static uint64_t lease(struct fixture *f, const struct inode *inode)
{
	uint64_t stamp = holder_request_begin(f->m.holder);
	uint64_t instance = holder_grant(f->m.holder, at(1), stamp, 0, INODE_HANDLE(inode),
					 (struct change){ 9, 1 }, &f->actions);

	holder_request_end(f->m.holder, stamp);
	ck_assert_uint_ne(instance, 0);
	return instance;
}

START_TEST(one_handle_has_one_nodeid_and_it_is_found_by_both)
{
	struct fixture f;
	struct handle a = handle_of(1), b = handle_of(2);
	struct inode *first, *second;

	begin(&f);
	first = inode_get(&f.m, &a, S_IFDIR | 0755);
	second = inode_get(&f.m, &b, S_IFREG | 0644);
	ck_assert_ptr_eq(inode_get(&f.m, &a, S_IFDIR | 0755), first);
	ck_assert_uint_eq(first->nodeid, FUSE_ROOT_ID);
	ck_assert_uint_ne(first->nodeid, second->nodeid);
	ck_assert_uint_eq(second->nodeid, inode_nodeid(&b)); /* in every mount */
	ck_assert_ptr_eq(inode_by_nodeid(&f.m, second->nodeid), second);
	ck_assert_ptr_eq(inode_find(&f.m, &b), second);
	end(&f);
}
END_TEST

START_TEST(a_forgotten_inode_keeps_its_nodeid_for_what_is_cached)
{
	struct fixture f;
	struct handle a = handle_of(1);
	struct inode *inode;
	uint64_t nodeid;

	begin(&f);
	inode = inode_get(&f.m, &a, S_IFREG);
	nodeid = inode->nodeid;
	inode_looked_up(&f.m, inode);
	inode_unuse(&f.m, inode);
	ck_assert_uint_eq(f.m.inodes->idle_count, 0);
	inode_forget(&f.m, inode, 1);
	ck_assert_uint_eq(f.m.inodes->idle_count, 1);
	inode = inode_get(&f.m, &a, S_IFREG);
	ck_assert_uint_eq(inode->nodeid, nodeid);
	ck_assert_uint_eq(f.m.inodes->idle_count, 0);
	end(&f);
}
END_TEST

START_TEST(a_name_is_good_under_the_lease_it_was_learned_under)
{
	struct fixture f;
	struct handle d = handle_of(1), c = handle_of(2);
	struct inode *directory, *child, *found = NULL;
	uint64_t instance;

	begin(&f);
	directory = inode_get(&f.m, &d, S_IFDIR);
	child = inode_get(&f.m, &c, S_IFREG);
	ck_assert(!inode_name_find(&f.m, directory, slice_of("x"), at(1), &found));
	instance = lease(&f, directory);
	inode_name_set(&f.m, directory, slice_of("x"), child, instance);
	inode_name_set(&f.m, directory, slice_of("gone"), NULL, instance);
	inode_name_set(&f.m, directory, slice_of("hint"), child, 0);
	ck_assert(inode_name_find(&f.m, directory, slice_of("x"), at(1), &found));
	ck_assert_ptr_eq(found, child);
	ck_assert(inode_name_find(&f.m, directory, slice_of("gone"), at(1), &found));
	ck_assert_ptr_null(found);
	ck_assert(!inode_name_find(&f.m, directory, slice_of("hint"), at(1), &found));
	/* The session's term is over: nothing of it may be used. */
	ck_assert(!inode_name_find(&f.m, directory, slice_of("x"), at(40), &found));
	end(&f);
}
END_TEST

START_TEST(a_whole_listing_knows_absent_names_until_one_is_recalled)
{
	struct fixture f;
	struct handle d = handle_of(1);
	struct inode *directory, *found = NULL;
	uint64_t instance;

	begin(&f);
	directory = inode_get(&f.m, &d, S_IFDIR);
	instance = lease(&f, directory);
	inode_live(directory)->names_complete_instance = instance;
	ck_assert(inode_name_find(&f.m, directory, slice_of("absent"), at(1), &found));
	ck_assert_ptr_null(found);
	inode_name_forget(&f.m, directory, slice_of("other"));
	ck_assert(!inode_name_find(&f.m, directory, slice_of("absent"), at(1), &found));
	end(&f);
}
END_TEST

START_TEST(attributes_do_not_outlive_our_own_modification)
{
	struct fixture f;
	struct handle a = handle_of(1);
	const struct attributes attributes = { .size = 5, .mode = S_IFREG | 0600 };
	struct inode *inode;

	begin(&f);
	inode = inode_get(&f.m, &a, S_IFREG);
	inode_set_attributes(&f.m, inode, &attributes, lease(&f, inode));
	ck_assert(inode_attributes_stand(&f.m, inode, at(1)));
	ck_assert_int_eq(holder_modify_begin(f.m.holder, &a), 0);
	ck_assert(!inode_attributes_stand(&f.m, inode, at(1)));
	end(&f);
}
END_TEST

START_TEST(what_nobody_used_since_is_given_up_with_its_lease_and_its_name)
{
	struct fixture f;
	struct handle a = handle_of(1), b = handle_of(2), c = handle_of(3), d = handle_of(4);
	struct inode *root, *file, *open, *forgotten, *child;
	uint64_t nodeids[4] = { 0 }, instance;

	begin(&f);
	root = inode_get(&f.m, &a, S_IFDIR);
	file = inode_get(&f.m, &b, S_IFREG);
	open = inode_get(&f.m, &c, S_IFREG);
	forgotten = inode_get(&f.m, &d, S_IFREG);
	instance = lease(&f, root);
	inode_name_set(&f.m, root, slice_of("file"), file, instance);
	inode_name_set(&f.m, root, slice_of("open"), open, instance);
	inode_live(root)->names_complete_instance = instance;
	(void)lease(&f, file);
	(void)lease(&f, open);
	(void)lease(&f, forgotten);
	inode_looked_up(&f.m, file);
	inode_looked_up(&f.m, open);
	inode_unuse(&f.m, file);
	inode_unuse(&f.m, open);
	inode_unuse(&f.m, forgotten);
	inode_live(open)->open_count = 1;
	/* All were just used. */
	ck_assert_uint_eq(inode_shed(&f.m, 4, nodeids, 4, &f.actions), 0);
	ck_assert_uint_eq(f.m.inodes->count, 4);
	ck_assert_uint_eq(inode_shed(&f.m, 4, nodeids, 4, &f.actions), 1);
	ck_assert_uint_eq(nodeids[0], file->nodeid);
	ck_assert_uint_eq(holder_lease(f.m.holder, at(1), &b), 0);
	ck_assert_uint_ne(holder_lease(f.m.holder, at(1), &c), 0);
	ck_assert_ptr_null(inode_find(&f.m, &d));
	/* That the name is not known does not mean that it is absent. */
	ck_assert(!inode_name_find(&f.m, root, slice_of("file"), at(1), &child));
	ck_assert(inode_name_find(&f.m, root, slice_of("open"), at(1), &child));
	inode_forget(&f.m, file, 1);
	ck_assert_ptr_null(inode_find(&f.m, &b));
	ck_assert_uint_eq(f.m.inodes->count, 2);
	inode_live(open)->open_count = 0;
	end(&f);
}
END_TEST

START_TEST(what_is_used_again_after_it_was_given_up_stays)
{
	struct fixture f;
	struct handle a = handle_of(1), b = handle_of(2);
	uint64_t nodeids[4];
	struct inode *file;

	begin(&f);
	(void)inode_get(&f.m, &a, S_IFDIR);
	file = inode_get(&f.m, &b, S_IFREG);
	inode_looked_up(&f.m, file);
	inode_unuse(&f.m, file);
	(void)inode_shed(&f.m, 2, nodeids, 4, &f.actions);
	ck_assert_uint_eq(inode_shed(&f.m, 2, nodeids, 4, &f.actions), 1);
	inode_looked_up(&f.m, file);
	inode_forget(&f.m, file, 2);
	ck_assert_ptr_eq(inode_find(&f.m, &b), file);
	ck_assert_uint_eq(f.m.inodes->idle_count, 1);
	end(&f);
}
END_TEST

START_TEST(what_only_some_have_goes_when_it_says_nothing_and_nobody_uses_it)
{
	struct fixture f;
	struct handle a = handle_of(1), b = handle_of(2), c = handle_of(3);
	const struct inode_live *nothing;
	struct inode *root, *file;
	uint64_t instance;

	begin(&f);
	root = inode_get(&f.m, &a, S_IFDIR);
	file = inode_get(&f.m, &b, S_IFREG);
	nothing = inode_get(&f.m, &c, S_IFREG)->live;
	ck_assert_ptr_eq(file->live, nothing);
	instance = lease(&f, root);
	inode_looked_up(&f.m, file);
	inode_live(file)->open_count = 1;
	inode_name_set(&f.m, root, slice_of("file"), file, instance);
	inode_unuse(&f.m, file);
	ck_assert_uint_eq(file->live->open_count, 1);
	inode_use(&f.m, file);
	inode_live(file)->open_count = 0;
	inode_live(file)->settle_serial++;
	inode_use(&f.m, file);
	inode_unuse(&f.m, file);
	ck_assert_uint_eq(file->live->settle_serial, 1); /* somebody may remember it */
	inode_unuse(&f.m, file);
	ck_assert_ptr_eq(file->live, nothing); /* its name does not count */
	ck_assert_uint_eq(root->live->names.count, 1);
	inode_unuse(&f.m, root);
	ck_assert_uint_eq(root->live->names.count, 1);
	inode_use(&f.m, root);
	inode_names_forget(&f.m, root);
	inode_unuse(&f.m, root);
	ck_assert_ptr_eq(root->live, nothing);
	end(&f);
}
END_TEST

static TCase *inode_case(void)
{
	TCase *tcase = tcase_create("inode");

	tcase_add_test(tcase, one_handle_has_one_nodeid_and_it_is_found_by_both);
	tcase_add_test(tcase, a_forgotten_inode_keeps_its_nodeid_for_what_is_cached);
	tcase_add_test(tcase, a_name_is_good_under_the_lease_it_was_learned_under);
	tcase_add_test(tcase, a_whole_listing_knows_absent_names_until_one_is_recalled);
	tcase_add_test(tcase, attributes_do_not_outlive_our_own_modification);
	tcase_add_test(tcase, what_nobody_used_since_is_given_up_with_its_lease_and_its_name);
	tcase_add_test(tcase, what_is_used_again_after_it_was_given_up_stays);
	tcase_add_test(tcase, what_only_some_have_goes_when_it_says_nothing_and_nobody_uses_it);
	return tcase;
}

UNIT_MAIN("inode", inode_case)
