#include "prefetch/glob.h"

#include "unit.h"

static struct glob compiled(const char *pattern)
{
	const char *expected = "nothing";
	struct glob glob;
	size_t at;

	ck_assert_msg(glob_compile(slice_of(pattern), &glob, &at, &expected) == 0, "%s: %s", pattern,
		      expected);
	return glob;
}

static bool match(const char *pattern, const char *path, bool is_directory)
{
	struct glob glob = compiled(pattern);
	struct slice s = slice_of(path);
	uint32_t steps = UINT32_MAX;

	return glob_match(&glob, s, glob_name_at(s), is_directory, &steps);
}

struct row {
	const char *pattern, *matches[6], *not[6]; /* "d/" at an end: is a directory */
};

static const struct row rows[] = {
	{ "a", { "a", "x/a", "x/y/a/" }, { "b", "ab", "a/b", "" } },
	{ "*.tar", { "a.tar", ".tar", "x/y/b.tar" }, { "a.tar.gz", "tar", "a.tar/x" } },
	{ "shard-*", { "shard-", "x/shard-1" }, { "xshard-1", "shard", "shard-1/x" } },
	{ "s*-*.t?r", { "s-.tar", "x/shard-00001.tor" }, { "shard.tar", "s-.tr", "s-.tarr" } },
	{ "*a*a*a*b", { "aaab", "xaxaxab" }, { "aab", "aaaa", "aaabx" } },
	{ "/a", { "a" }, { "x/a", "a/a" } },
	{ "/*", { "a", "b/" }, { "a/b" } },
	{ "a/b", { "a/b" }, { "x/a/b", "a/b/c", "b", "a/x/b" } },
	{ "a/*/c", { "a/b/c" }, { "a/c", "a/b/b/c" } },
	{ "a/", { "a/", "x/a/" }, { "a", "a/b", "a/b/" } },
	{ "/a/b/", { "a/b/" }, { "a/b", "x/a/b/" } },
	{ "**", { "a", "a/b/c", "d/" }, { "" } },
	{ "/**", { "a", "a/b/c" }, { "" } },
	{ "**/a", { "a", "x/a", "x/y/a" }, { "ab", "a/b" } },
	{ "**/a/b", { "a/b", "x/a/b", "a/a/b" }, { "a", "b", "a/x/b" } },
	{ "a/**", { "a/b", "a/b/c" }, { "a", "a/", "b/a" } },
	{ "a/**/b", { "a/b", "a/x/b", "a/x/y/b", "a/b/b" }, { "a", "b", "ab", "a/b/c" } },
	{ "a/**/b/**/c", { "a/b/c", "a/x/b/y/c", "a/b/b/x/b/c" }, { "a/c", "a/b", "a/b/cc" } },
	{ "/d/**/*.idx", { "d/a.idx", "d/x/y/.idx" }, { "a.idx", "d/idx", "x/d/a.idx" } },
	{ "a**b", { "ab", "axxb", "x/ab" }, { "a/b" } },
	{ "/a**/b", { "a/b", "axx/b" }, { "a/x/b" } },
	{ "?", { "a", "x/b" }, { "ab", "" } },
	{ "a?b", { "axb" }, { "ab", "a/b" } },
	{ "[a-c]x", { "ax", "bx", "cx" }, { "dx", "x", "Ax" } },
	{ "[!a-c]x", { "dx", "-x" }, { "ax", "x" } },
	{ "[^a]", { "b" }, { "a" } },
	{ "[]]", { "]" }, { "[", "a" } },
	{ "[]-a]", { "]", "^", "a" }, { "b", "-" } },
	{ "[a-]", { "a", "-" }, { "b" } },
	{ "[\\]x]", { "]", "x" }, { "\\" } },
	{ "[a\\-z]", { "a", "-", "z" }, { "b", "\\" } },
	{ "[!]]", { "a" }, { "]" } },
	{ "\\*", { "*" }, { "a", "\\a", "\\*" } },
	{ "a\\ b", { "a b" }, { "a\\ b", "ab" } },
	{ "\\#x", { "#x" }, { "x" } },
	{ "x\\[*", { "x[1", "x[" }, { "x1" } },
	{ "*\\?", { "a?", "?" }, { "ab" } },
	{ "\xc3\xa9?", { "\xc3\xa9x", "\xc3\xa9\xff" }, { "\xc3\xa9\xc3\xa9" } },
	{ "/", { "/" }, { "a", "a/", "" } },
	{ "ab*ba", { "abba", "abxba" }, { "aba" } },
	{ "/ab/**/ab/*b", { "ab/ab/b" }, { "ab/b", "ab/ab" } },
};

/* "x/" is the directory x, "/" the one that the policy belongs to. */
static bool row_match(const char *pattern, const char *path)
{
	char copy[64];
	size_t length = strlen(path);
	bool is_directory = length > 0 && path[length - 1] == '/';

	memcpy(copy, path, length + 1);
	if (is_directory)
		copy[length - 1] = '\0';
	return match(pattern, copy, is_directory);
}

START_TEST(patterns_match_what_gitattributes_says)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		for (int j = 0; j < 6 && rows[i].matches[j]; j++)
			ck_assert_msg(row_match(rows[i].pattern, rows[i].matches[j]), "%s: %s",
				      rows[i].pattern, rows[i].matches[j]);
		for (int j = 0; j < 6 && rows[i].not[j]; j++)
			ck_assert_msg(!row_match(rows[i].pattern, rows[i].not[j]), "%s: not %s",
				      rows[i].pattern, rows[i].not[j]);
	}
}
END_TEST

START_TEST(what_is_wrong_is_said_with_its_place)
{
	static const struct {
		const char *pattern;
		size_t at;
	} wrong[] = {
		{ "", 0 }, { "a[bc", 1 }, { "/a[]", 2 }, { "a//b", 1 }, { "//", 1 }, { "a//", 1 },
		{ "a\\", 1 }, { "a\\/b", 1 }, { "x/[a/b]", 2 }, { "[[:alpha:]]", 0 }, { "[a\\]", 0 },
		{ "[!]", 0 }, { "/\\/", 1 },
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		const char *expected = NULL;
		struct glob glob;
		size_t at = 99;

		ck_assert_msg(glob_compile(slice_of(wrong[i].pattern), &glob, &at, &expected) < 0, "%s",
			      wrong[i].pattern);
		ck_assert(expected);
		ck_assert_msg(at == wrong[i].at, "%s: at %zu", wrong[i].pattern, at);
	}
}
END_TEST

START_TEST(stars_do_not_multiply)
{
	char pattern[GLOB_BYTES_MAX + 1], path[4096];

	/* A star for each other byte, and nothing that ends as the pattern does but at the last byte. */
	for (size_t i = 0; i < GLOB_BYTES_MAX - 2; i += 2)
		memcpy(pattern + i, "*a", 2);
	strcpy(pattern + GLOB_BYTES_MAX - 2, "?b");
	memset(path, 'a', sizeof(path) - 1);
	path[sizeof(path) - 2] = 'b';
	path[sizeof(path) - 1] = '\0';
	ck_assert(match(pattern, path, false));
	memset(path + 500, 'x', sizeof(path) - 502);
	ck_assert(!match(pattern, path, false));
	/* The same with parts. */
	for (size_t i = 0; i + 5 < GLOB_BYTES_MAX; i += 5)
		memcpy(pattern + i, "**/a/", 6);
	strcpy(pattern + 1000, "b?");
	for (size_t i = 0; i + 2 < sizeof(path); i += 2)
		memcpy(path + i, "a/", 3);
	strcpy(path + 4092, "bb");
	ck_assert(match(pattern, path, false));
	strcpy(path + 4092, "b");
	ck_assert(!match(pattern, path, false));
	memset(pattern, 'a', GLOB_BYTES_MAX);
	compiled(pattern + 3);
}
END_TEST

/* The same by trying everything, for short ones of a small alphabet. */
static bool slow(const char *p, const char *s)
{
	switch (*p) {
	case '\0':
		return *s == '\0';
	case '*':
		return slow(p + 1, s) || (*s && *s != '/' && slow(p, s + 1));
	case '?':
		return *s && *s != '/' && slow(p + 1, s + 1);
	default:
		return *p == *s && slow(p + 1, s + 1);
	}
}

static bool slow_parts(const char *p, const char *s)
{
	char part[16], pattern[16];
	size_t n = strcspn(p, "/"), m;

	if (n == 2 && p[0] == '*' && p[1] == '*') {
		if (!p[n])
			return *s != '\0';
		if (slow_parts(p + 3, s))
			return true;
		m = strcspn(s, "/");
		return s[m] == '/' && slow_parts(p, s + m + 1);
	}
	m = strcspn(s, "/");
	memcpy(pattern, p, n);
	pattern[n] = '\0';
	memcpy(part, s, m);
	part[m] = '\0';
	if (!*s || !slow(pattern, part))
		return false;
	if (!p[n] || !s[m])
		return !p[n] && !s[m];
	return slow_parts(p + n + 1, s + m + 1);
}

static bool well_formed(const char *path)
{
	size_t length = strlen(path);

	return length > 0 && path[0] != '/' && path[length - 1] != '/' && !strstr(path, "//");
}

START_TEST(a_slow_matcher_agrees)
{
	static const char letters[] = "ab*/";
	uint64_t state = 1;
	unsigned compared = 0, matched = 0;

	while (compared < 200000) {
		char pattern[12], path[12], anchored[13];
		size_t n, m;
		bool fast;

		state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		n = 1 + (state >> 33) % 9;
		m = 1 + (state >> 40) % 9;
		for (size_t i = 0; i < n; i++) {
			state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
			pattern[i] = letters[(state >> 35) % 4];
		}
		for (size_t i = 0; i < m; i++) {
			static const char plain[] = "aab/";

			state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
			path[i] = plain[(state >> 35) % 4];
		}
		pattern[n] = path[m] = '\0';
		if (!well_formed(pattern) || !well_formed(path) || strstr(pattern, "***"))
			continue;
		anchored[0] = '/';
		memcpy(anchored + 1, pattern, n + 1);
		fast = match(anchored, path, false);
		ck_assert_msg(fast == slow_parts(pattern, path), "%s: %s", anchored, path);
		compared++;
		matched += fast;
	}
	ck_assert_uint_gt(matched, 5000);
}
END_TEST

static TCase *glob_case(void)
{
	TCase *t = tcase_create("glob");

	tcase_add_test(t, patterns_match_what_gitattributes_says);
	tcase_add_test(t, what_is_wrong_is_said_with_its_place);
	tcase_add_test(t, stars_do_not_multiply);
	tcase_add_test(t, a_slow_matcher_agrees);
	return t;
}

UNIT_MAIN("glob", glob_case)
