#include "prefetch/rules.h"

#include <errno.h>

#include "lease_unit.h"
#include "unit.h"

static struct test_memory memory = { 0, -1 };
static const struct allocator allocator = { test_resize, &memory };
static struct rules *rules;

static void compile(const char *text)
{
	struct rules_error error;

	ck_assert_msg(rules_compile(&allocator, slice_of(text), &rules, &error) == 0, "%u:%u: %s",
		      error.line, error.column, error.text);
}

static void done(void)
{
	rules_destroy(rules);
	rules = NULL;
	ck_assert_int_eq(memory.blocks, 0);
}

static struct rules_attributes of(const char *path)
{
	struct rules_attributes a;

	rules_attributes_init(&a);
	rules_match(rules, slice_of(path), false, 3, &a);
	return a;
}

static uint64_t value(const char *path, enum rules_attribute attribute)
{
	return of(path).values[attribute];
}

START_TEST(the_last_line_that_names_an_attribute_wins)
{
	struct rules_attributes a;

	compile("# data\n"
		"* priority=low readahead=1M\n"
		"\n"
		"*.tar prefetch=whole pin\r\n"
		"\t/old/**  !pin  prefetch=off \n");
	a = of("x/a.tar");
	ck_assert_uint_eq(rules_amount(&a), RULES_AMOUNT_WHOLE);
	ck_assert_uint_eq(rules_when(&a), RULES_ON_OPEN);
	ck_assert_uint_eq(a.values[RULES_PIN], 1);
	ck_assert_uint_eq(a.values[RULES_PRIORITY], RULES_PRIORITY_LOW);
	ck_assert_uint_eq(a.values[RULES_READAHEAD], 1u << 20);
	ck_assert_uint_eq(a.lines[RULES_PREFETCH], 4);
	ck_assert_uint_eq(a.lines[RULES_PRIORITY], 2);
	ck_assert_uint_eq(a.layers[RULES_PIN], 3);
	ck_assert_uint_eq(a.lines[RULES_TTL], 0);
	ck_assert_uint_eq(a.layers[RULES_TTL], RULES_LAYER_NONE);
	ck_assert_uint_eq(a.values[RULES_TTL], RULES_ALL);
	a = of("old/a.tar");
	ck_assert_uint_eq(rules_amount(&a), RULES_AMOUNT_OFF);
	ck_assert_uint_eq(a.values[RULES_PIN], 0);
	ck_assert_uint_eq(a.lines[RULES_PIN], 5);
	ck_assert_uint_eq(a.lines[RULES_READAHEAD], 2);
	done();
}
END_TEST

START_TEST(a_later_layer_replaces_what_it_sets)
{
	struct rules_attributes a;
	struct rules *nearer;

	compile("* priority=low admit=second\n");
	nearer = rules;
	compile("*.bin priority=high\n");
	rules_attributes_init(&a);
	rules_match(nearer, slice_of("d/x.bin"), false, 0, &a);
	rules_match(rules, slice_of("x.bin"), false, 1, &a);
	ck_assert_uint_eq(a.values[RULES_PRIORITY], RULES_PRIORITY_HIGH);
	ck_assert_uint_eq(a.layers[RULES_PRIORITY], 1);
	ck_assert_uint_eq(a.values[RULES_ADMIT], RULES_ADMIT_SECOND);
	ck_assert_uint_eq(a.layers[RULES_ADMIT], 0);
	rules_destroy(nearer);
	done();
}
END_TEST

START_TEST(each_value_is_read_and_told_again)
{
	static const char *const settings[] = {
		"prefetch=off", "prefetch=auto", "prefetch=on-mount,whole",
		"prefetch=on-open,on-list,rest", "prefetch=on-create,metadata", "prefetch=on-list,64K",
		"meta-only=on", "depth=3", "depth=all", "pin=on", "pin=off", "priority=normal",
		"bandwidth=10M", "bandwidth=unlimited", "ttl=90s", "ttl=12h", "ttl=7d", "ttl=unlimited",
		"quota=25%", "quota=10G", "quota=unlimited", "admit=second", "admit=never", "wait=open",
		"wait=never", "readahead=0", "readahead=3K", "readahead=mount", "compression=off",
		"compression=auto", "disconnected=mount", "disconnected=stale", "seal=never",
		"seal=after:1h", "seal=after:1500ms", "quota=1025", "bandwidth=1T",
	};

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		const char *equals = strchr(settings[i], '=');
		char line[80] = "x ", text[RULES_VALUE_BYTES];
		struct rules_attributes a;

		strcat(line, settings[i]);
		compile(line);
		a = of("x");
		for (unsigned j = 0; j < RULES_ATTRIBUTE_COUNT; j++) {
			if (a.lines[j] == 0)
				continue;
			ck_assert(strncmp(settings[i], rules_attribute_name(j),
					  (size_t)(equals - settings[i])) == 0);
			rules_value_text(j, a.values[j], text);
			ck_assert_str_eq(text, equals + 1);
		}
		done();
	}
}
END_TEST

START_TEST(shorter_ways_to_say_it)
{
	struct rules_attributes a;

	compile("a prefetch=on-mount\n"
		"b prefetch=4M\n"
		"c meta-only\n"
		"d pin\nd unpin\n"
		"e prefetch=whole meta-only\n"
		"f prefetch=off meta-only\n");
	a = of("a");
	ck_assert(rules_when(&a) == RULES_ON_MOUNT && rules_amount(&a) == RULES_AMOUNT_WHOLE);
	a = of("b");
	ck_assert(rules_when(&a) == RULES_ON_OPEN);
	ck_assert(rules_amount(&a) == RULES_AMOUNT_BYTES + (4u << 20));
	a = of("c");
	ck_assert(rules_when(&a) == 0 && rules_amount(&a) == RULES_AMOUNT_METADATA);
	ck_assert_uint_eq(value("d", RULES_PIN), 0);
	a = of("e");
	ck_assert(rules_when(&a) == RULES_ON_OPEN && rules_amount(&a) == RULES_AMOUNT_METADATA);
	a = of("f");
	ck_assert(rules_amount(&a) == RULES_AMOUNT_OFF);
	done();
}
END_TEST

START_TEST(depth_counts_from_where_a_pattern_begins_to_vary)
{
	static const struct {
		const char *path;
		uint32_t level;
		bool reaches, inside; /* it; and what is in it, were it a directory */
	} of_path[] = {
		{ "data/a", 1, true, true },
		{ "data/a/b", 2, true, false },
		{ "data/a/b/c", 3, false, false },
		{ "one/x.tar", 2, true, false },
		{ "x.tar", 1, true, true },
		{ "one/two/x.tar", 3, false, false },
		{ "exact/file", 0, true, true },
		{ "pre/fix1", 1, true, false },
		{ "pre/fix1/a", 0, true, true },
		{ "elsewhere/a/b/c/d/e", 0, true, true },
		{ "data/free/a/b/c/d/e", 6, true, true },
	};

	compile("*.tar depth=2\n"
		"/data/** depth=2\n"
		"/exact/file depth=1\n"
		"/pre/fix* depth=1\n"
		"/data/free/** depth=3\n"
		"/data/free/** !depth\n");
	for (size_t i = 0; i < sizeof(of_path) / sizeof(of_path[0]); i++) {
		struct rules_attributes a = of(of_path[i].path);

		ck_assert_msg(rules_reaches(&a, false) == of_path[i].reaches, "%s", of_path[i].path);
		ck_assert_msg(rules_reaches(&a, true) == of_path[i].inside, "%s", of_path[i].path);
		if (a.values[RULES_DEPTH] != RULES_ALL)
			ck_assert_msg(a.level == of_path[i].level, "%s: %u", of_path[i].path, a.level);
	}
	done();
}
END_TEST

START_TEST(what_is_wrong_is_told_with_line_and_column)
{
	static const struct {
		const char *text;
		uint32_t line, column;
		const char *says;
	} wrong[] = {
		{ "* prefech=whole", 1, 3, "did you mean prefetch?" },
		{ "# x\n\n*.tar  unpinn\n", 3, 8, "did you mean unpin?" },
		{ "* xyzzyxyzzy", 1, 3, "expected one of prefetch, meta-only" },
		{ "* priority=hihg", 1, 12, "expected low, normal or high" },
		{ "* priority", 1, 11, "a value is missing" },
		{ "* priority=", 1, 12, "a value is missing" },
		{ "* prefetch=on-mount,", 1, 12, "is no value of prefetch" },
		{ "* prefetch=whole,rest", 1, 12, "one of whole, rest" },
		{ "* prefetch=on-list,on-list", 1, 12, "no value" },
		{ "* ttl=3", 1, 7, "a time like 90s" },
		{ "* ttl=0s", 1, 7, "a time like 90s" },
		{ "* quota=0%", 1, 9, "a share of the cache" },
		{ "* quota=101%", 1, 9, "a share of the cache" },
		{ "* readahead=99999999999999999999999999T", 1, 13, "SIZE" },
		{ "* readahead=2000000T", 1, 13, "SIZE" },
		{ "* depth=0", 1, 9, "1 to 1000" },
		{ "* seal=1h", 1, 8, "after:1h" },
		{ "* pin=yes", 1, 7, "on or off" },
		{ "* pin !pin", 1, 7, "set twice" },
		{ "* !pin=on", 1, 3, "no attribute 'pin=on'" },
		{ "* unpin=on", 1, 3, "no attribute 'unpin'" },
		{ "ok pin\n*.tar\n", 2, 6, "nothing is set" },
		{ "!x pin", 1, 1, "cannot be negated" },
		{ "  a[b pin", 1, 4, "a ] behind the [" },
		{ "a//b pin", 1, 2, "one /" },
		{ "* =", 1, 3, "no attribute ''" },
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct rules_error error;

		ck_assert_int_eq(rules_compile(&allocator, slice_of(wrong[i].text), &rules, &error),
				 -EINVAL);
		ck_assert_msg(error.line == wrong[i].line && error.column == wrong[i].column &&
			      strstr(error.text, wrong[i].says), "%s: %u:%u: %s", wrong[i].text,
			      error.line, error.column, error.text);
		ck_assert_int_eq(memory.blocks, 0);
	}
}
END_TEST

START_TEST(limits_are_kept)
{
	static char text[RULES_TEXT_BYTES_MAX + 1];
	struct rules_error error;

	memset(text, '\n', sizeof(text));
	ck_assert_int_eq(rules_compile(&allocator, (struct slice){ (uint8_t *)text, sizeof(text) },
				       &rules, &error), -EINVAL);
	ck_assert_uint_eq(error.line, RULES_TEXT_BYTES_MAX + 1);
	ck_assert_int_eq(rules_compile(&allocator,
				       (struct slice){ (uint8_t *)text, RULES_TEXT_BYTES_MAX },
				       &rules, &error), 0);
	done();
	for (size_t i = 0; i + 8 <= RULES_TEXT_BYTES_MAX; i += 8)
		memcpy(text + i, "abc pin\n", 8);
	ck_assert_int_eq(rules_compile(&allocator,
				       (struct slice){ (uint8_t *)text, RULES_TEXT_BYTES_MAX },
				       &rules, &error), -EINVAL);
	ck_assert_uint_eq(error.line, RULES_LINE_COUNT_MAX + 1);
	ck_assert_int_eq(rules_compile(&allocator, (struct slice){ (uint8_t *)text,
				       (size_t)RULES_LINE_COUNT_MAX * 8 }, &rules, &error), 0);
	ck_assert_uint_eq(rules_count(rules), RULES_LINE_COUNT_MAX);
	done();
	memset(text, ' ', RULES_LINE_BYTES_MAX + 1);
	memcpy(text, "a pin", 5);
	ck_assert_int_eq(rules_compile(&allocator, (struct slice){ (uint8_t *)text,
				       RULES_LINE_BYTES_MAX + 1 }, &rules, &error), -EINVAL);
	ck_assert_int_eq(rules_compile(&allocator, (struct slice){ (const uint8_t *)"a pi\0n", 6 },
				       &rules, &error), -EINVAL);
	ck_assert_uint_eq(error.column, 5);
	compile("");
	ck_assert_uint_eq(rules_count(rules), 0);
	done();
}
END_TEST

START_TEST(without_memory_nothing_is_left)
{
	struct rules_error error;
	int r;

	for (long n = 0;; n++) {
		memory.fail_after = n;
		r = rules_compile(&allocator, slice_of("a pin\nb pin\nc ttl=1h priority=low\n"), &rules,
				  &error);
		memory.fail_after = -1;
		if (r == 0)
			break;
		ck_assert_int_eq(r, -ENOMEM);
		ck_assert_int_eq(memory.blocks, 0);
	}
	done();
}
END_TEST

START_TEST(what_is_fetched_when_mounted_is_found)
{
	static const char *const below[] = { "data/sets", "", "a/b", "c", "" };
	struct slice s, text, pattern;
	uint32_t index = 0;

	compile("/data/sets/**/x*.tar prefetch=on-mount\n"
		"*.idx prefetch=on-mount,metadata\n"
		"/d prefetch=on-open\n"
		"a/b prefetch=on-mount,on-create\n"
		"/c/\\* prefetch=on-mount\n"
		"/c* prefetch=on-mount\n"
		"/c* pin\n");
	for (size_t i = 0; i < sizeof(below) / sizeof(below[0]); i++) {
		ck_assert(rules_on_mount(rules, &index, &s));
		ck_assert_msg(slice_equal(s, slice_of(below[i])), "%zu", i);
	}
	ck_assert(!rules_on_mount(rules, &index, &s));
	ck_assert(rules_sets(rules, RULES_PIN) && !rules_sets(rules, RULES_TTL));
	ck_assert_uint_eq(rules_line(rules, 3, &text, &pattern), 4);
	ck_assert(slice_equal(text, slice_of("a/b prefetch=on-mount,on-create")));
	ck_assert(slice_equal(pattern, slice_of("a/b")));
	done();
}
END_TEST

START_TEST(it_is_known_where_lines_lead)
{
	static const struct {
		const char *path;
		unsigned when;
		bool leads;
	} to[] = {
		{ "", RULES_ON_MOUNT, true },
		{ "data", RULES_ON_MOUNT, true },
		{ "data/sets", RULES_ON_MOUNT, true },
		{ "data/sets/a/b", RULES_ON_MOUNT, true },
		{ "data/set", RULES_ON_MOUNT, false },
		{ "data/setsx", RULES_ON_MOUNT, false },
		{ "other", RULES_ON_MOUNT, false },
		{ "other", RULES_ON_MOUNT | RULES_ON_CREATE, true },
		{ "in/a", RULES_ON_CREATE, true },
		{ "in", RULES_ON_LIST, false },
	};

	compile("/data/sets/x*.tar prefetch=on-mount\n"
		"/in/** prefetch=on-create,1M\n"
		"*.x prefetch=on-create\n"
		"/data/** prefetch=off\n");
	ck_assert_uint_eq(rules_whens(rules), RULES_ON_MOUNT | RULES_ON_CREATE);
	for (size_t i = 0; i < sizeof(to) / sizeof(to[0]); i++)
		ck_assert_msg(rules_leads(rules, to[i].when, slice_of(to[i].path)) == to[i].leads, "%s",
			      to[i].path);
	done();
	compile("/ prefetch=on-mount\n");
	ck_assert(rules_leads(rules, RULES_ON_MOUNT, slice_of("")));
	ck_assert(!rules_leads(rules, RULES_ON_MOUNT, slice_of("a")));
	done();
}
END_TEST

/* Whoever may write to a directory sets its policy, and all of a host wait while it is matched. */
START_TEST(what_was_made_to_take_long_says_nothing_from_there_on)
{
	char text[RULES_TEXT_BYTES_MAX], path[4096] = "";
	struct rules_attributes a;
	size_t at;

	for (unsigned i = 0; i < 15; i++)
		sprintf(path + strlen(path), "%s%0255d", i ? "/" : "", 0);
	at = (size_t)sprintf(text, "* pin\n");
	for (unsigned i = 0; i < 100; i++)
		at += (size_t)sprintf(text + at, "**/*%0120d1/** pin\n", 0);
	sprintf(text + at, "* priority=high\n");
	compile(text);
	a = of(path);
	ck_assert_uint_eq(a.steps, 0);
	ck_assert_uint_eq(a.values[RULES_PRIORITY], RULES_PRIORITY_HIGH);
	ck_assert_uint_eq(a.lines[RULES_PIN], 0);
	/* Of another path it says all. */
	ck_assert_uint_eq(of("a/b/c").lines[RULES_PIN], 1);
	done();
}
END_TEST

START_TEST(a_thousand_usual_lines_are_all_heard)
{
	char text[RULES_TEXT_BYTES_MAX];
	struct rules_attributes a;
	size_t at = (size_t)sprintf(text, "* pin\n");

	for (unsigned i = 1; i < RULES_LINE_COUNT_MAX; i++)
		at += (size_t)sprintf(text + at, "**/s*/*.%03u pin\n", i);
	compile(text);
	a = of("datasets/some/where/deep/in/a/tree/of/many/directories/subset/samples/sample-0001.tar");
	ck_assert_uint_eq(a.lines[RULES_PIN], 1);
	ck_assert_uint_gt(a.steps, RULES_STEPS_MAX / 4);
	done();
}
END_TEST

START_TEST(patterns_may_have_blanks)
{
	compile("a\\ b pin\n\\#c pin\n");
	ck_assert_uint_eq(value("x/a b", RULES_PIN), 1);
	ck_assert_uint_eq(value("#c", RULES_PIN), 1);
	ck_assert_uint_eq(value("c", RULES_PIN), 0);
	done();
}
END_TEST

static TCase *rules_case(void)
{
	TCase *t = tcase_create("rules");

	tcase_add_test(t, the_last_line_that_names_an_attribute_wins);
	tcase_add_test(t, a_later_layer_replaces_what_it_sets);
	tcase_add_test(t, each_value_is_read_and_told_again);
	tcase_add_test(t, shorter_ways_to_say_it);
	tcase_add_test(t, depth_counts_from_where_a_pattern_begins_to_vary);
	tcase_add_test(t, what_is_wrong_is_told_with_line_and_column);
	tcase_add_test(t, limits_are_kept);
	tcase_add_test(t, without_memory_nothing_is_left);
	tcase_add_test(t, what_is_fetched_when_mounted_is_found);
	tcase_add_test(t, it_is_known_where_lines_lead);
	tcase_add_test(t, patterns_may_have_blanks);
	tcase_add_test(t, what_was_made_to_take_long_says_nothing_from_there_on);
	tcase_add_test(t, a_thousand_usual_lines_are_all_heard);
	return t;
}

UNIT_MAIN("rules", rules_case)
