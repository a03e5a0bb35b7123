#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#include "fs/mount/mount.h"
#include "fs/origin/origin.h"
#include "tools/options.h"

static struct mount_options options;
static char error[OPTIONS_ERROR_BYTES_MAX];

static void setup(void)
{
	options_set_defaults(&mount_option_table, &options);
	error[0] = '\0';
}

static int set(const char *name, const char *value)
{
	const struct option_row *row = options_find(&mount_option_table, name);

	ck_assert_ptr_nonnull(row);
	return options_set(row, &options, value, error);
}

static int set_list(const char *text, bool ignore_generic)
{
	static char list[256];

	ck_assert_uint_lt(strlen(text), sizeof(list));
	strcpy(list, text);
	return options_set_list(&mount_option_table, &options, list, ignore_generic, error);
}

START_TEST(defaults_come_from_the_rows)
{
	struct origin_options origin;

	options_set_defaults(&origin_option_table, &origin);
	ck_assert_str_eq(origin.listen, "0.0.0.0:7443");
	ck_assert_uint_eq(origin.term, 30000);
	ck_assert(!origin.cleartext);
	ck_assert_uint_eq(options.cache_size, UINT64_C(10) << 30);
	ck_assert_uint_eq(options.timeout, 300000);
	ck_assert_str_eq(options.disconnected, "wait");
	ck_assert(!options.read_only);
}
END_TEST

START_TEST(an_error_names_the_option_and_what_was_expected)
{
	ck_assert_int_eq(set("cache-size", "ten"), -EINVAL);
	ck_assert_str_eq(error, "cache-size: 'ten' is not a size such as 512M or 10G");
	ck_assert_int_eq(set("timeout", "30"), -EINVAL);
	ck_assert_str_eq(error, "timeout: '30' is not a time such as 500ms, 30s or 2m");
	ck_assert_int_eq(set("timeout", "0s"), -EINVAL);
	ck_assert_int_eq(set("cache-files", "0"), -EINVAL);
	ck_assert_int_eq(set("disconnected", "never"), -EINVAL);
	ck_assert_str_eq(error, "disconnected: 'never' is not one of wait|fail|stale");
	ck_assert_int_eq(set("disconnected", "wai"), -EINVAL);
	ck_assert_int_eq(set("cache", NULL), -EINVAL);
	ck_assert_str_eq(error, "cache needs a value: cache=DIR");
	ck_assert_int_eq(set("ro", "yes"), -EINVAL);
	ck_assert_uint_eq(options.timeout, 300000);
}
END_TEST

START_TEST(paths_are_made_absolute)
{
	ck_assert_int_eq(set("cache", "some/where"), 0);
	ck_assert_int_eq(options.cache[0], '/');
	ck_assert_ptr_nonnull(strstr(options.cache, "/some/where"));
	ck_assert_int_eq(set("cache", "/there"), 0);
	ck_assert_str_eq(options.cache, "/there");
}
END_TEST

START_TEST(a_list_sets_what_it_names)
{
	ck_assert_int_eq(set_list("cache=/c,cache-size=2G,,ro,timeout=5s", false), 0);
	ck_assert_str_eq(options.cache, "/c");
	ck_assert_uint_eq(options.cache_size, UINT64_C(2) << 30);
	ck_assert_uint_eq(options.timeout, 5000);
	ck_assert(options.read_only);
}
END_TEST

START_TEST(generic_options_are_passed_over_only_when_asked_for)
{
	ck_assert_int_eq(set_list("rw,noatime,_netdev,x-systemd.automount,user=joe,timeout=5s",
				  true), 0);
	ck_assert_uint_eq(options.timeout, 5000);
	ck_assert(!options.read_only);
	ck_assert_int_eq(set_list("noatime", false), -EINVAL);
}
END_TEST

START_TEST(generic_options_mean_what_mount_8_means_by_them)
{
	static const struct {
		const char *list;
		bool ro, nosuid, nodev, noexec;
	} rows[] = {
		{ "rw", false, false, false, false },
		{ "nosuid,nodev,noexec,ro", true, true, true, true },
		{ "ro,rw", false, false, false, false },
		{ "rw,ro", true, false, false, false },
		{ "user", false, true, true, true },
		{ "users,exec,suid", false, false, true, false },
		{ "exec,users", false, true, true, true },
		{ "owner", false, true, true, false },
		{ "group,dev", false, true, false, false },
		{ "ro,nosuid,defaults,nodev", false, false, true, false },
		{ "nodev,user=joe", false, false, true, false },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		options_set_defaults(&mount_option_table, &options);
		ck_assert_int_eq(set_list(rows[i].list, true), 0);
		ck_assert_msg(options.read_only == rows[i].ro &&
			      options.no_suid == rows[i].nosuid &&
			      options.no_dev == rows[i].nodev &&
			      options.no_exec == rows[i].noexec, "%s", rows[i].list);
	}
}
END_TEST

START_TEST(what_nobody_knows_is_refused)
{
	ck_assert_int_eq(set_list("timeout=5s,colour=red", true), -EINVAL);
	ck_assert_ptr_nonnull(strstr(error, "colour"));
	/* Passing over it would promise what the mount does not do. */
	ck_assert_int_eq(set_list("remount", true), -EINVAL);
}
END_TEST

static TCase *options_case(void)
{
	TCase *tcase = tcase_create("options");

	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_test(tcase, defaults_come_from_the_rows);
	tcase_add_test(tcase, an_error_names_the_option_and_what_was_expected);
	tcase_add_test(tcase, paths_are_made_absolute);
	tcase_add_test(tcase, a_list_sets_what_it_names);
	tcase_add_test(tcase, generic_options_are_passed_over_only_when_asked_for);
	tcase_add_test(tcase, generic_options_mean_what_mount_8_means_by_them);
	tcase_add_test(tcase, what_nobody_knows_is_refused);
	return tcase;
}

UNIT_MAIN("options", options_case)
