/*
 * glob.h - patterns of paths, as .gitattributes has them, and whether a path matches one.
 *
 * A pattern without a slash matches the last part of a path at any depth; with one (but for one at its
 * end) it matches the whole path, from the directory on to which the policy belongs: there a slash in
 * front changes nothing else. "*" stands for any bytes of one part, "?" for one byte, "[a-z]" and
 * "[!a-z]" for one of (or none of) these, a part "**" for any parts or none, at the end for at least
 * one. A slash at the end: directories only. "/" alone is the directory itself, which no other pattern
 * matches. A backslash takes the meaning away from what follows. Bytes, not characters; case counts.
 *
 * Plain values. A glob borrows its text, which has to outlive it. Matching allocates nothing, and takes
 * at most the length of the path times that of the pattern, which for somebody who wants it to is millions
 * of steps: so they are counted, and limited. What cannot match because of how the pattern begins or ends
 * costs a comparison.
 */
#ifndef PREFETCH_GLOB_H
#define PREFETCH_GLOB_H

#include "lease/base/types.h"

#define GLOB_BYTES_MAX 1024

struct glob {
	const char *text;  /* without the slashes at its ends */
	uint16_t length;
	uint16_t prefix;   /* bytes at its start that stand for themselves */
	uint16_t suffix;   /* the same at its end */
	bool literal;      /* all of it does */
	bool simple;       /* prefix, "*", suffix, and nothing else */
	bool last_part;    /* matches the last part of a path, whatever is before it */
	bool directories;  /* matches directories only */
	bool self;         /* matches the directory that the policy belongs to */
};

/*
 * 0, or -EINVAL: `*ret_at` is the byte of the pattern that is wrong, `*ret_expected` a constant that says
 * what was expected.
 */
int glob_compile(struct slice pattern, struct glob *ret_glob, size_t *ret_at,
		 const char **ret_expected) MUST_CHECK;

/*
 * `path`: from the directory that the policy belongs to, parts with one slash between them and none at
 * the ends; empty: that directory. `name_at`: where its last part begins. `*steps` is how many may be taken,
 * and becomes what is left of them; when that is 0 nothing matches. A step is about a byte compared: the same
 * path and patterns take the same number everywhere.
 */
bool glob_match(const struct glob *glob, struct slice path, size_t name_at, bool is_directory,
		uint32_t *steps);

/* Where the last part of `path` begins. */
size_t glob_name_at(struct slice path);

#endif
