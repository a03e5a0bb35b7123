/*
 * types.h - the quantities that the rooms share, each a type of its own.
 *
 * An instant, a duration and an identifier are one-field structs so that the compiler refuses a
 * swap. All are plain values: copy them freely, no ownership, any thread.
 *
 * Instants are CLOCK_BOOTTIME nanoseconds: CLOCK_MONOTONIC stands still while a machine is
 * suspended, and a dead lease would look alive. Durations cross the wire, instants never.
 */
#ifndef LEASE_BASE_TYPES_H
#define LEASE_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MUST_CHECK __attribute__((warn_unused_result))

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

struct instant {
	uint64_t ns; /* CLOCK_BOOTTIME of the machine that read it */
};

struct duration {
	uint64_t ns;
};

/* One host's session with one origin; drawn by the origin, never 0, never used twice. */
struct session_id {
	uint64_t value;
};

/*
 * The version of an inode's content. Two changes are compared for equality only; the counter of
 * one incarnation also grows with every modification. {0,0} is "unknown" and equals nothing that
 * an origin ever stamps. PROTOCOL.md section 7.
 */
struct change {
	uint64_t incarnation; /* of the store; new after every crash of the origin's machine */
	uint64_t counter;
};

/*
 * Names one inode of one export for its whole life, across renames and restarts. Opaque to hosts:
 * the origin puts export, file handle and a MAC in it (fs/origin/handle.h). Unused bytes are zero,
 * so that handles compare with memcmp.
 */
#define HANDLE_BYTES_MAX 55
struct handle {
	uint8_t length; /* bytes used, 1..HANDLE_BYTES_MAX; 0 is "no handle" */
	uint8_t bytes[HANDLE_BYTES_MAX];
};

/* A borrowed piece of memory: not terminated, not owned. */
struct slice {
	const uint8_t *data;
	size_t length;
};

static inline struct instant instant_add(struct instant t, struct duration d)
{
	return (struct instant){ t.ns + d.ns < t.ns ? UINT64_MAX : t.ns + d.ns };
}

static inline bool instant_before(struct instant a, struct instant b)
{
	return a.ns < b.ns;
}

/* Time from `a` until `b`; zero when b is not later. */
static inline struct duration instant_until(struct instant a, struct instant b)
{
	return (struct duration){ b.ns > a.ns ? b.ns - a.ns : 0 };
}

static inline struct duration duration_ms(uint64_t ms)
{
	return (struct duration){ ms * NS_PER_MS };
}

static inline bool change_equal(struct change a, struct change b)
{
	return a.incarnation == b.incarnation && a.counter == b.counter;
}

static inline bool change_known(struct change c)
{
	return c.incarnation != 0 || c.counter != 0;
}

static inline bool handle_equal(const struct handle *a, const struct handle *b)
{
	return a->length == b->length && memcmp(a->bytes, b->bytes, a->length) == 0;
}

static inline bool slice_equal(struct slice a, struct slice b)
{
	return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0);
}

static inline struct slice slice_of(const char *text)
{
	return (struct slice){ (const uint8_t *)text, strlen(text) };
}

#endif
