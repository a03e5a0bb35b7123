/*
 * seal.h - the terms of seals (PROTOCOL.md 11.4), as they travel in attributes: a byte.
 *
 * Plain values, any thread. A term is a number between 8 and 15 eighths of a power of two of
 * seconds, so what somebody asks for is rounded down by less than an eighth. Both sides count with
 * what the byte says.
 */
#ifndef LEASE_SEAL_H
#define LEASE_SEAL_H

#include "lease/base/types.h"
#include "lease/message.h"

#define SEAL_TERM_CODE_MAX 176 /* 45.5 days */
#define SEAL_TERM_DEFAULT_S (7 * 24 * 3600)

/* 0: no term of its own: the seal counts as long as the session. An unknown code is such a one. */
static inline struct duration seal_term_of_code(uint32_t code)
{
	if (code == 0 || code > SEAL_TERM_CODE_MAX)
		return (struct duration){ 0 };
	return duration_ms(((8 + (uint64_t)((code - 1) & 7)) * 125) << ((code - 1) >> 3));
}

/* The longest term of a code that is not longer than `term`; 0 below a second. */
static inline uint32_t seal_term_code(struct duration term)
{
	uint32_t code = SEAL_TERM_CODE_MAX;

	while (code && seal_term_of_code(code).ns > term.ns)
		code--;
	return code;
}

/* Of attributes; 0: not sealed, or without a term. */
static inline struct duration seal_term_of_mode(uint32_t mode)
{
	if (!(mode & MARK_SEALED))
		return (struct duration){ 0 };
	return seal_term_of_code(mode >> MARK_TERM_SHIFT & 0xff);
}

#endif
