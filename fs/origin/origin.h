/*
 * origin.h - runs an origin: exports behind an HTTP/2 server with leases.
 *
 * The options are one table: the struct, `leasehold origin --help` and leasehold-origin(1) come
 * from its rows, and a test compares them.
 */
#ifndef FS_ORIGIN_ORIGIN_H
#define FS_ORIGIN_ORIGIN_H

#include <stdbool.h>
#include <stdint.h>

#include "lease/base/types.h"

/*
 * O(KIND, field, "flag", "METAVAR", default as text, "one line")
 * Kinds: TEXT, COUNT (min..max in the kind's row), MILLISECONDS, FLAG. Durations on the command
 * line are "30s", "500ms", "2m".
 */
#define ORIGIN_OPTIONS(O)                                                                       \
	O(TEXT, listen, "listen", "ADDR:PORT", "0.0.0.0:7443", "where hosts connect")          \
	O(TEXT, state, "state", "DIR", "/var/lib/leasehold",                                    \
	  "certificates, join token and the durable record")                                    \
	O(TEXT, name, "name", "NAME[,NAME]", "",                                                \
	  "further names or addresses that hosts use for this origin")                          \
	O(MILLISECONDS, term, "lease-term", "TIME", "30s",                                      \
	  "how long a host that is silent delays a change")                                     \
	O(COUNT, sessions, "max-sessions", "N", "10000", "hosts at a time")                     \
	O(COUNT, leases, "max-leases", "N", "1000000", "leases of one host")                    \
	O(COUNT, workers, "workers", "N", "8", "threads that work on the store")                \
	O(FLAG, cleartext, "cleartext", "", "",                                                 \
	  "no TLS; loopback addresses only, every peer is trusted")                             \
	O(FLAG, new_token, "new-token", "", "", "make a new join token; the old one ends")

#define ORIGIN_EXPORTS_MAX 64

/* One export. On the command line: DIR (named "default" alone, or its last component), or
   --export NAME=DIR[,ro][,root_squash][,hosts=NAME:NAME]. */
struct origin_export {
	const char *name;
	const char *directory;
	bool read_only;
	bool root_squash; /* uid 0 of hosts becomes nobody (65534) */
	const char *hosts; /* names separated by ':', NULL: every host that joined */
};

struct origin_options {
#define TEXT_FIELD(field) const char *field;
#define COUNT_FIELD(field) uint32_t field;
#define MILLISECONDS_FIELD(field) uint64_t field;
#define FLAG_FIELD(field) bool field;
#define OPTION_FIELD(KIND, field, flag, metavar, fallback, text) KIND##_FIELD(field)
	ORIGIN_OPTIONS(OPTION_FIELD)
	struct origin_export exports[ORIGIN_EXPORTS_MAX];
	uint32_t export_count;
};

/*
 * Runs until SIGTERM or SIGINT, then drains (at most 10 s) and returns 0. Prints to standard
 * output, once it serves, for each export the complete mount command with the join token, and
 * logs to standard error. Returns -errno after one line to standard error when it cannot start.
 */
int origin_run(const struct origin_options *options) MUST_CHECK;

#endif
