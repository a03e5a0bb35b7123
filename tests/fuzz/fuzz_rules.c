/*
 * Any text as a policy: it is refused with a place that it has and a reason, or each path of a few,
 * and one that is the end of the text, matches within bounds; what is told of values is read again the
 * same.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "prefetch/rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	(void)context;
	(void)old_size;
	if (size == 0) {
		free(pointer);
		return NULL;
	}
	return realloc(pointer, size);
}

static const struct allocator allocator = { resize, NULL };

static void told_is_read_again(enum rules_attribute attribute, uint64_t value)
{
	char text[RULES_VALUE_BYTES], line[RULES_VALUE_BYTES + 64] = "x ";
	struct rules_attributes a;
	struct rules_error error;
	struct rules *rules;

	rules_value_text(attribute, value, text);
	assert(strlen(text) > 0);
	strcat(line, rules_attribute_name(attribute));
	strcat(line, "=");
	strcat(line, text);
	assert(rules_compile(&allocator, slice_of(line), &rules, &error) == 0);
	rules_attributes_init(&a);
	rules_match(rules, slice_of("x"), false, 0, &a);
	assert(a.values[attribute] == value && a.lines[attribute] == 1);
	rules_destroy(rules);
}

static void match(const struct rules *rules, struct slice path, bool is_directory)
{
	struct rules_attributes a;

	rules_attributes_init(&a);
	rules_match(rules, path, is_directory, 1, &a);
	for (unsigned i = 0; i < RULES_ATTRIBUTE_COUNT; i++) {
		assert((a.lines[i] == 0) == (a.layers[i] == RULES_LAYER_NONE));
		assert(!a.lines[i] || rules_sets(rules, i));
		if (a.lines[i])
			told_is_read_again(i, a.values[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const paths[] = { "", "a", "a/b.tar", "data/x/y/shard-00001.tar",
					     "scratch/.idx" };
	struct slice text = { data, size }, below;
	struct rules_error error;
	struct rules *rules;
	uint32_t index = 0;
	int r = rules_compile(&allocator, text, &rules, &error);

	if (r) {
		assert(r == -EINVAL && error.line > 0 && error.column > 0);
		assert(strlen(error.text) > 0);
		return 0;
	}
	assert(rules_count(rules) <= RULES_LINE_COUNT_MAX);
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		match(rules, slice_of(paths[i]), i % 2 == 0);
	match(rules, (struct slice){ data + size / 2, size - size / 2 }, false);
	for (uint32_t i = 0; i < rules_count(rules); i++) {
		struct slice line, pattern;

		assert(rules_line(rules, i, &line, &pattern) > 0);
		assert(pattern.length > 0 && pattern.length < line.length);
		match(rules, pattern, false);
	}
	while (rules_on_mount(rules, &index, &below))
		assert(below.length < GLOB_BYTES_MAX);
	rules_destroy(rules);
	return 0;
}
