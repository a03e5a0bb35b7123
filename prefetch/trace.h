/*
 * trace.h - accesses as text, to be kept and replayed.
 *
 * A line an access, in its order; "#" to the end of a line that begins with it is a comment:
 *
 *   leasehold-trace 1
 *   0 lookup 2 d1 t040755 "train"
 *   35 open 7 d2 r1 s65536 "a.jpg"
 *   12 read 7 r9 o0 l65536
 *   entry 8 d2 s70000 "b.jpg"
 *
 * First the microseconds since the line before, what it is (ACCESS_TYPES) and the inode; then what is
 * known of it, in this order or any other: d directory, r reader, t type (octal), s size, o offset,
 * l length, f files and D directories of a listing, c cached, and last the name in quotes (\", \\,
 * \xHH). Ids are decimal, and small where a person should read them. What is left out is 0. "entry" lines
 * are no accesses: they say what else was in a directory, so that a replay knows what could have
 * been fetched in vain.
 *
 * Pure: text comes from the caller and goes to a buffer of the caller's.
 */
#ifndef PREFETCH_TRACE_H
#define PREFETCH_TRACE_H

#include "lease/base/bytes.h"
#include "prefetch/access.h"

#define TRACE_HEADER "leasehold-trace 1\n"
#define TRACE_NAME_MAX 255u
/* Of any line that trace_write() makes. */
#define TRACE_LINE_MAX 1400u
/* Between two lines: a day, in us. What is longer is no pause of a job. */
#define TRACE_PAUSE_MAX (UINT64_C(86400) * 1000 * 1000)

struct trace_line {
	bool entry; /* not an access: a name in a directory */
	struct access access; /* its name is borrowed from the reader until the next line */
};

struct trace_reader {
	struct slice text; /* borrowed */
	size_t at;
	uint32_t line;        /* number of the latest line, from 1 */
	const char *expected; /* of a line that is refused: what should have been there */
	struct instant now;
	uint8_t name[TRACE_NAME_MAX];
};

void trace_reader_init(struct trace_reader *r, struct slice text);
/* 1: a line; 0: the end; -EINVAL: line number `r->line` is refused, see `r->expected`. */
int trace_next(struct trace_reader *r, struct trace_line *ret_line) MUST_CHECK;

/*
 * Writes a line; `previous` is the instant of the line before and becomes that of this one (an entry has
 * none). What does not fit sets the writer's error.
 */
void trace_write(struct writer *w, const struct trace_line *line, struct instant *previous);

#endif
