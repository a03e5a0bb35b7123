/* On whose behalf wishes are. */
#include "fs/mount/askers.h"

#include "unit.h"

static struct askers askers = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct credential member(uint32_t uid, uint32_t group)
{
	return (struct credential){ .uid = uid, .gid = 5, .group_count = 1, .groups = { group } };
}

START_TEST(a_user_without_groups_takes_no_place)
{
	const struct credential plain = { .uid = 7, .gid = 8 };
	struct credential found = askers_credential(&askers, askers_who(&askers, &plain));

	ck_assert_uint_eq(askers_who(&askers, &plain), askers_user(7, 8));
	ck_assert_uint_eq(found.uid, 7);
	ck_assert_uint_eq(found.gid, 8);
	ck_assert_uint_eq(found.group_count, 0);
	ck_assert_uint_eq(askers.next, 0);
}
END_TEST

START_TEST(groups_are_kept_until_others_need_the_place)
{
	struct credential first = member(1, 100), other, found;
	uint64_t who = askers_who(&askers, &first);

	ck_assert_uint_eq(askers_who(&askers, &first), who);
	for (uint32_t i = 1; i < ASKERS_MAX; i++) {
		other = member(1, 100 + i);
		ck_assert_uint_ne(askers_who(&askers, &other), who);
	}
	found = askers_credential(&askers, who);
	ck_assert_uint_eq(found.uid, 1);
	ck_assert_uint_eq(found.gid, 5);
	ck_assert_uint_eq(found.group_count, 1);
	ck_assert_uint_eq(found.groups[0], 100);
	other = member(2, 100);
	(void)askers_who(&askers, &other);
	found = askers_credential(&askers, who);
	ck_assert_uint_eq(found.uid, 65534);
	ck_assert_uint_eq(found.group_count, 0);
}
END_TEST

static TCase *askers_case(void)
{
	TCase *test_case = tcase_create("askers");

	tcase_add_test(test_case, a_user_without_groups_takes_no_place);
	tcase_add_test(test_case, groups_are_kept_until_others_need_the_place);
	return test_case;
}

UNIT_MAIN("askers", askers_case)
