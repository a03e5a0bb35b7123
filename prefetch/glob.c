#include "prefetch/glob.h"

#include <errno.h>

/* ---- compiling ---- */

/* Of the bracket at `at`: the byte behind its end. 0: it has none, or it is none; `*ret_expected`. */
static size_t bracket_end(const char *text, size_t length, size_t at, const char **ret_expected)
{
	size_t i = at + 1;

	if (i < length && (text[i] == '!' || text[i] == '^'))
		i++;
	for (size_t first = i; i < length; i++) {
		if (text[i] == ']' && i > first)
			return i + 1;
		if (text[i] == '/') {
			*ret_expected = "no / between [ and ]";
			return 0;
		}
		if (text[i] == '[' && i + 1 < length && text[i + 1] == ':') {
			*ret_expected = "the bytes themselves, like [a-z], for a class has no name here";
			return 0;
		}
		if (text[i] == '\\' && i + 1 < length)
			i++;
	}
	*ret_expected = "a ] behind the [, or \\[ for the byte itself";
	return 0;
}

/* Of what is special at `at`: the byte behind it; `at` itself: nothing is; SIZE_MAX: it is wrong. */
static size_t special_end(const char *text, size_t length, size_t at, const char **ret_expected)
{
	size_t end;

	switch (text[at]) {
	case '?':
		return at + 1;
	case '*':
		for (end = at; end < length && text[end] == '*'; end++)
			;
		/* "**" and its slash may stand for nothing. */
		if (end - at == 2 && (at == 0 || text[at - 1] == '/') && end < length && text[end] == '/')
			end++;
		return end;
	case '[':
		end = bracket_end(text, length, at, ret_expected);
		return end ? end : SIZE_MAX;
	case '\\':
		if (at + 1 == length || text[at + 1] == '/') {
			*ret_expected = "a byte behind the \\, which is not /";
			return SIZE_MAX;
		}
		return at + 2;
	case '/':
		if (at + 1 < length && text[at + 1] == '/') {
			*ret_expected = "one / and not two";
			return SIZE_MAX;
		}
		return at;
	default:
		return at;
	}
}

int glob_compile(struct slice pattern, struct glob *ret_glob, size_t *ret_at,
		 const char **ret_expected)
{
	const char *text = (const char *)pattern.data;
	size_t length = pattern.length, first = 0, last_end = 0;
	struct glob glob = { 0 };
	unsigned specials = 0;
	bool anchored;

	*ret_at = 0;
	if (length == 0 || length > GLOB_BYTES_MAX) {
		*ret_expected = length ? "a pattern of 1024 bytes at most" : "a pattern";
		return -EINVAL;
	}
	if (length == 1 && *text == '/') {
		glob.text = text;
		glob.self = true;
		*ret_glob = glob;
		return 0;
	}
	anchored = *text == '/';
	text += anchored;
	length -= anchored;
	if (length > 1 && text[length - 1] == '/' && text[length - 2] != '/') {
		glob.directories = true;
		length--;
	}
	glob.text = text;
	glob.length = (uint16_t)length;
	glob.last_part = !anchored && !memchr(text, '/', length);
	for (size_t at = 0; at < length;) {
		size_t end = special_end(text, length, at, ret_expected);

		if (end == SIZE_MAX || (at == 0 && text[at] == '/')) {
			if (end != SIZE_MAX)
				*ret_expected = "one / and not two";
			*ret_at = at + anchored;
			return -EINVAL;
		}
		if (end == at) {
			at++;
			continue;
		}
		if (specials++ == 0)
			first = at;
		last_end = end;
		at = end;
	}
	glob.literal = specials == 0;
	glob.prefix = (uint16_t)(specials ? first : length);
	glob.suffix = (uint16_t)(specials ? length - last_end : 0);
	glob.simple = specials == 1 && text[first] == '*' && glob.last_part;
	*ret_glob = glob;
	return 0;
}

/* ---- matching ---- */

/* What looking for the end of a part counts for: it goes by many bytes at a time. */
#define PART_STEPS 8

/* False: there are none left. */
static bool take(uint32_t *steps, size_t count)
{
	*steps -= count < *steps ? (uint32_t)count : *steps;
	return *steps > 0;
}

/* The bracket at *at holds `byte`, or not, if it begins with "!". *at moves behind it. */
static bool match_bracket(const char **at, uint8_t byte)
{
	const char *p = *at + 1, *first;
	bool negated = *p == '!' || *p == '^', found = false;

	p += negated;
	for (first = p; *p != ']' || p == first; p++) {
		uint8_t low, high;

		if (*p == '\\')
			p++;
		low = high = (uint8_t)*p;
		if (p[1] == '-' && p[2] != ']') {
			p += 2;
			if (*p == '\\')
				p++;
			high = (uint8_t)*p;
		}
		found |= byte >= low && byte <= high;
	}
	*at = p + 1;
	return found != negated;
}

/* One byte matches what is at *at, which is no star; then *at moves behind it. */
static bool match_byte(const char **at, uint8_t byte)
{
	const char *p = *at;
	bool matches;

	switch (*p) {
	case '[':
		matches = match_bracket(&p, byte);
		break;
	case '?':
		matches = true;
		p++;
		break;
	case '\\':
		matches = (uint8_t)p[1] == byte;
		p += 2;
		break;
	default:
		matches = (uint8_t)*p == byte;
		p++;
		break;
	}
	*at = p;
	return matches;
}

/*
 * One part of a path against one of a pattern. A star that was passed is never looked at again once a
 * later one was reached: what it took then was the least, which leaves the most for the later one.
 */
static bool match_part(const char *p, const char *p_end, const char *s, const char *s_end,
		       uint32_t *steps)
{
	const char *star = NULL, *star_s = NULL;

	for (;;) {
		bool is_star = p < p_end && *p == '*', matches = false;
		const char *next = p;

		if (!is_star && p < p_end && s < s_end)
			matches = match_byte(&next, (uint8_t)*s);
		/* Of a bracket all of it is looked at. */
		if (!take(steps, 1 + (size_t)(next - p)))
			return false;
		if (is_star) {
			star = ++p;
			star_s = s;
		} else if (s == s_end) {
			return p == p_end;
		} else if (matches) {
			p = next;
			s++;
		} else if (!star) {
			return false;
		} else {
			p = star;
			s = ++star_s;
		}
	}
}

static const char *part_end(const char *at, const char *end)
{
	const char *slash = memchr(at, '/', (size_t)(end - at));

	return slash ? slash : end;
}

/* NULL: it was the last one. */
static const char *part_next(const char *part, const char *end)
{
	return part == end ? NULL : part + 1;
}

/* The same game with parts for bytes, and "**" for stars. */
static bool match_parts(const char *p, const char *p_end, const char *s, const char *s_end,
			uint32_t *steps)
{
	const char *back_p = NULL, *back_s = NULL;

	for (;;) {
		const char *p_stop = p ? part_end(p, p_end) : NULL;
		const char *s_stop = s ? part_end(s, s_end) : NULL;

		if (!take(steps, PART_STEPS))
			return false;
		if (p && p_stop - p == 2 && p[0] == '*' && p[1] == '*') {
			p = part_next(p_stop, p_end);
			if (!p)
				return s != NULL;
			back_p = p;
			back_s = s;
		} else if (!s) {
			return !p;
		} else if (p && match_part(p, p_stop, s, s_stop, steps)) {
			p = part_next(p_stop, p_end);
			s = part_next(s_stop, s_end);
		} else if (!back_p) {
			return false;
		} else {
			back_s = part_next(part_end(back_s, s_end), s_end);
			if (!back_s)
				return false;
			p = back_p;
			s = back_s;
		}
	}
}

bool glob_match(const struct glob *glob, struct slice path, size_t name_at, bool is_directory,
		uint32_t *steps)
{
	const char *s = (const char *)path.data;
	size_t length = path.length;

	if (!take(steps, 1))
		return false;
	if (length == 0 || glob->self)
		return length == 0 && glob->self && is_directory;
	if (glob->directories && !is_directory)
		return false;
	if (glob->last_part) {
		s += name_at;
		length -= name_at;
	}
	if (length < (size_t)glob->prefix + glob->suffix ||
	    memcmp(s, glob->text, glob->prefix) != 0 ||
	    memcmp(s + length - glob->suffix, glob->text + glob->length - glob->suffix,
		   glob->suffix) != 0)
		return false;
	if (glob->literal)
		return length == glob->length;
	if (glob->simple)
		return true;
	if (glob->last_part)
		return match_part(glob->text, glob->text + glob->length, s, s + length, steps);
	return match_parts(glob->text, glob->text + glob->length, s, s + length, steps);
}

size_t glob_name_at(struct slice path)
{
	size_t at = path.length;

	while (at > 0 && path.data[at - 1] != '/')
		at--;
	return at;
}
