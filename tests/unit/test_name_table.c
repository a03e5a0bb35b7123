#include "unit.h"

#include "fs/mount/name_table.h"

static struct name_entry *entry_of(const char *name)
{
	struct name_entry *entry = calloc(1, name_entry_bytes(strlen(name)));

	ck_assert_ptr_nonnull(entry);
	entry->length = (uint8_t)strlen(name);
	memcpy(entry->name, name, strlen(name));
	return entry;
}

static struct name_entry *add(struct name_table *table, const char *name, uint64_t instance)
{
	struct name_entry *entry = entry_of(name);

	ck_assert_int_eq(name_table_add(table, entry), 0);
	name_table_learned(table, entry, instance);
	return entry;
}

static void drop(struct name_table *table, const char *name)
{
	struct name_entry *entry = name_table_find(table, slice_of(name));

	name_table_remove(table, entry);
	free(entry);
}

START_TEST(a_name_counts_under_the_newest_instance_only)
{
	struct name_table table = { 0 };
	struct name_entry *a = add(&table, "a", 7), *b, *c, *d;

	ck_assert_uint_eq(name_table_instance(&table, a), 7);
	b = add(&table, "b", 9);
	c = add(&table, "c", 7); /* an answer that came late */
	d = add(&table, "d", 0);
	ck_assert_uint_eq(name_table_instance(&table, a), 0);
	ck_assert_uint_eq(name_table_instance(&table, b), 9);
	ck_assert_uint_eq(name_table_instance(&table, c), 0);
	ck_assert_uint_eq(name_table_instance(&table, d), 0);
	name_table_learned(&table, a, 9);
	ck_assert_uint_eq(name_table_instance(&table, a), 9);
	for (const char *name = "abcd"; *name; name++)
		drop(&table, (char[]){ *name, 0 });
	ck_assert_ptr_null(table.heads);
}
END_TEST

/* There are fewer eras than instances. */
START_TEST(an_era_that_comes_again_does_not_bring_old_names_back)
{
	struct name_table table = { 0 };
	struct name_entry *old = add(&table, "old", 1), *other = add(&table, "other", 1);

	for (uint64_t instance = 2; instance < 200000; instance++) {
		name_table_learned(&table, other, instance);
		if (name_table_instance(&table, old) != 0 ||
		    name_table_instance(&table, other) != instance)
			ck_abort_msg("instance %u", (unsigned)instance);
	}
	drop(&table, "old");
	drop(&table, "other");
}
END_TEST

START_TEST(names_are_found_while_the_table_grows)
{
	struct name_table table = { 0 };
	char name[16];

	for (unsigned i = 0; i < 1000; i++) {
		(void)snprintf(name, sizeof(name), "%u", i);
		(void)add(&table, name, 5);
	}
	for (unsigned i = 0; i < 1000; i++) {
		struct name_entry *entry;

		(void)snprintf(name, sizeof(name), "%u", i);
		entry = name_table_find(&table, slice_of(name));
		ck_assert_ptr_nonnull(entry);
		ck_assert_uint_eq(name_table_instance(&table, entry), 5);
		drop(&table, name);
		ck_assert_ptr_null(name_table_find(&table, slice_of(name)));
	}
	ck_assert_uint_eq(table.count, 0);
}
END_TEST

static TCase *name_table_case(void)
{
	TCase *tcase = tcase_create("name_table");

	tcase_add_test(tcase, a_name_counts_under_the_newest_instance_only);
	tcase_add_test(tcase, an_era_that_comes_again_does_not_bring_old_names_back);
	tcase_add_test(tcase, names_are_found_while_the_table_grows);
	return tcase;
}

UNIT_MAIN("name_table", name_table_case)
