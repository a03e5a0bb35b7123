/*
 * rules.h - policies: lines "GLOB ATTRIBUTE..." and what they say of a path.
 *
 * The text is like .gitattributes: blank lines and lines that begin with "#" say nothing; a line is a
 * pattern (prefetch/glob.h; a blank in it has a backslash in front), then "attribute", "attribute=value"
 * or "!attribute", which is as if nothing had set it. Of the lines that match, each attribute is that of
 * the last one that names it. leasehold-policy(5) is the page, and a test compares it with the table here.
 *
 * A struct rules is one text, compiled: the policy of one directory, or of a mount. It belongs to whoever
 * had it compiled, copies what it needs of the text, and never changes: any number of threads may match
 * against it. Pure: memory comes from the allocator, nothing else from outside.
 *
 * Layers: begin with rules_attributes_init(), then apply the policy of the export's root, those of
 * directories from there down, and that of the mount last. What a later one sets replaces what an earlier
 * one set. So each has only to know paths from its own directory on.
 */
#ifndef PREFETCH_RULES_H
#define PREFETCH_RULES_H

#include "lease/base/allocator.h"
#include "lease/base/types.h"
#include "prefetch/glob.h"

#define RULES_TEXT_BYTES_MAX 16384 /* of a policy */
#define RULES_LINE_BYTES_MAX 2048
#define RULES_LINE_COUNT_MAX 1000  /* that are not empty */
#define RULES_LAYER_NONE 255
/* Of comparing (glob_match), for one path: about a millisecond. A thousand lines of the usual kind take a
   fraction of it; what somebody made to take long says nothing from there on up. */
#define RULES_STEPS_MAX (UINT32_C(1) << 19)

/*
 * A(ID, "name", KIND, "values, as messages and the page tell them", default, EFFECT, "one line").
 * EFFECT: NOW, at least in part, as the page says; or LATER: understood and kept, and nothing acts on it.
 */
#define RULES_ATTRIBUTES(A)                                                                        \
	A(PREFETCH, "prefetch", PREFETCH, "off, auto, or with commas between: on-mount, on-open, " \
	  "on-list, on-create, and one of whole, rest, metadata, SIZE", RULES_PREFETCH_AUTO,       \
	  NOW, "what is fetched before it is asked for, and when")                                 \
	A(META_ONLY, "meta-only", FLAG, "on or off", 0, NOW,                                       \
	  "only names and attributes are fetched ahead, no bytes")                                 \
	A(DEPTH, "depth", COUNT, "1 to 1000, or all", RULES_ALL, NOW,                              \
	  "levels below its pattern's directory that fetching ahead goes down")                     \
	A(PIN, "pin", FLAG, "on or off", 0, NOW, "what is cached is not evicted for other files")  \
	A(PRIORITY, "priority", PRIORITY, "low, normal or high", RULES_PRIORITY_NORMAL, NOW,       \
	  "which of what is fetched ahead goes first")                                             \
	A(BANDWIDTH, "bandwidth", RATE, "SIZE (bytes a second) or unlimited", RULES_ALL, NOW,      \
	  "most that is fetched ahead in a second")                                                \
	A(TTL, "ttl", DURATION, "a time like 90s, 10m, 12h or 7d, or unlimited", RULES_ALL, NOW,   \
	  "what was not used for so long is evicted first")                                        \
	A(QUOTA, "quota", QUOTA, "a share of the cache like 25%, SIZE, or unlimited", RULES_ALL,   \
	  NOW, "most of the cache that what matches takes")                                        \
	A(ADMIT, "admit", ADMIT, "first, second or never", RULES_ADMIT_FIRST, NOW,                 \
	  "at which access it goes into the cache")                                                \
	A(WAIT, "wait", WAIT, "open or never", RULES_WAIT_NEVER, NOW,                              \
	  "an open waits until all of the file is cached")                                         \
	A(READAHEAD, "readahead", SIZE, "SIZE, 0 for none, or mount", RULES_ALL, NOW,              \
	  "most that is fetched ahead of a sequential reader; mount: as --read-ahead says")        \
	A(COMPRESSION, "compression", COMPRESSION, "auto or off", RULES_COMPRESSION_AUTO, NOW,     \
	  "whether answers may be compressed on the way")                                          \
	A(DISCONNECTED, "disconnected", DISCONNECTED, "mount, wait, fail or stale",                \
	  RULES_DISCONNECTED_MOUNT, NOW, "what a call does while the origin is away")            \
	A(SEAL, "seal", SEAL, "never, or after: and a time, like after:1h", RULES_ALL, NOW,        \
	  "files that were quiet for so long are sealed by the origin")

enum rules_attribute {
#define RULES_ENUM(id, name, kind, values, fallback, effect, text) RULES_##id,
	RULES_ATTRIBUTES(RULES_ENUM)
#undef RULES_ENUM
	RULES_ATTRIBUTE_COUNT
};

/* Of numbers (bytes, levels, ms): no limit; or, of readahead, as the mount's option says. */
#define RULES_ALL UINT64_MAX

/* RULES_PREFETCH: when, then how much in the bits above. */
enum rules_when {
	RULES_ON_MOUNT = 1,  /* as soon as it is there, without anybody asking */
	RULES_ON_OPEN = 2,   /* it was opened to be read */
	RULES_ON_LIST = 4,   /* its directory was listed */
	RULES_ON_CREATE = 8, /* it was made, or changed, on another host */
};
#define RULES_WHEN_BITS 4
#define RULES_AMOUNT_AUTO 0 /* the predictors say, or nothing when there is no `when` */
#define RULES_AMOUNT_WHOLE 1
#define RULES_AMOUNT_REST 2     /* what is behind the place that is read first */
#define RULES_AMOUNT_METADATA 3
#define RULES_AMOUNT_OFF 4      /* nothing is fetched ahead, whatever predictors say */
#define RULES_AMOUNT_BYTES 16   /* n + this: the first n bytes */
#define RULES_PREFETCH_AUTO (RULES_AMOUNT_AUTO << RULES_WHEN_BITS)

#define RULES_QUOTA_SHARE (UINT64_C(1) << 63) /* in RULES_QUOTA: a percentage, else bytes */
enum rules_priority { RULES_PRIORITY_LOW, RULES_PRIORITY_NORMAL, RULES_PRIORITY_HIGH };
enum rules_admit { RULES_ADMIT_FIRST, RULES_ADMIT_SECOND, RULES_ADMIT_NEVER };
enum rules_wait { RULES_WAIT_NEVER, RULES_WAIT_OPEN };
enum rules_compression { RULES_COMPRESSION_AUTO, RULES_COMPRESSION_OFF };
enum rules_disconnected {
	RULES_DISCONNECTED_MOUNT,
	RULES_DISCONNECTED_WAIT,
	RULES_DISCONNECTED_FAIL,
	RULES_DISCONNECTED_STALE,
};

/* What is said of one path. `lines`: 1 is the first of its policy; 0: nothing set it. */
struct rules_attributes {
	uint64_t values[RULES_ATTRIBUTE_COUNT];
	uint16_t lines[RULES_ATTRIBUTE_COUNT];
	uint8_t layers[RULES_ATTRIBUTE_COUNT]; /* as it was given to rules_match(); or RULES_LAYER_NONE */
	uint32_t steps; /* that are left: RULES_STEPS_MAX */
	uint32_t level; /* below where the pattern of RULES_DEPTH's line begins to vary (rules_on_mount) */
};

static inline unsigned rules_when(const struct rules_attributes *a)
{
	return a->values[RULES_PREFETCH] & ((1u << RULES_WHEN_BITS) - 1);
}

/* RULES_AMOUNT_*, with meta-only worked in, and that of admit=never no bytes can be fetched ahead. */
static inline uint64_t rules_amount(const struct rules_attributes *a)
{
	uint64_t amount = a->values[RULES_PREFETCH] >> RULES_WHEN_BITS;
	bool no_bytes = a->values[RULES_META_ONLY] || a->values[RULES_ADMIT] == RULES_ADMIT_NEVER;

	return no_bytes && amount != RULES_AMOUNT_OFF ? RULES_AMOUNT_METADATA : amount;
}

/* Whether depth lets it be fetched ahead; `inside`: what is in it, of a directory. */
static inline bool rules_reaches(const struct rules_attributes *a, bool inside)
{
	return a->level + (inside ? 1u : 0u) <= a->values[RULES_DEPTH];
}

#define RULES_ERROR_TEXT_BYTES 256

struct rules_error {
	uint32_t line, column; /* the first is 1; column in bytes */
	char text[RULES_ERROR_TEXT_BYTES]; /* what was found and what was expected; terminated */
};

struct rules;

/*
 * 0; -EINVAL with `*ret_error`: nothing was made of it; -ENOMEM. A text of RULES_TEXT_BYTES_MAX is not
 * too long. The allocator has to outlive the rules.
 */
int rules_compile(const struct allocator *allocator, struct slice text, struct rules **ret_rules,
		  struct rules_error *ret_error) MUST_CHECK;
void rules_destroy(struct rules *rules);

/* The defaults; nothing set them. */
void rules_attributes_init(struct rules_attributes *attributes);
/*
 * Works in what `rules` say of `path` (as in glob_match). `layer` is kept with each attribute that they
 * set; it means something to the caller only.
 */
void rules_match(const struct rules *rules, struct slice path, bool is_directory, uint8_t layer,
		 struct rules_attributes *attributes);

/* How many lines there are that say something. */
uint32_t rules_count(const struct rules *rules);
/* Of the `index`-th of them: its number, its text without blanks at the ends, its pattern (both borrowed). */
uint32_t rules_line(const struct rules *rules, uint32_t index, struct slice *ret_text,
		    struct slice *ret_pattern);
/*
 * The next line from `*index` on that sets prefetch with RULES_ON_MOUNT: true, `*index` behind it, and the
 * directory (or file) below which everything is that its pattern can match, from the policy's directory on
 * without slashes at the ends; empty: all of it. False: there is none.
 */
bool rules_on_mount(const struct rules *rules, uint32_t *index, struct slice *ret_below);
/* All RULES_ON_* that some line has. */
unsigned rules_whens(const struct rules *rules);
/* Some line that has one of `when` may match `path`, or, as far as its beginning says, what is below it. */
bool rules_leads(const struct rules *rules, unsigned when, struct slice path);
/* The `index`-th line that says something sets `attribute`, to `*ret_value`; "!attribute": to the default. */
bool rules_line_sets(const struct rules *rules, uint32_t index, enum rules_attribute attribute,
		     uint64_t *ret_value);
/* Some line sets `attribute`. */
bool rules_sets(const struct rules *rules, enum rules_attribute attribute);
/* The lowest value that a line gives `attribute`; UINT64_MAX: none does. */
uint64_t rules_least(const struct rules *rules, enum rules_attribute attribute);

const char *rules_attribute_name(enum rules_attribute attribute);
const char *rules_attribute_values(enum rules_attribute attribute);
const char *rules_attribute_text(enum rules_attribute attribute);
/* Something acts on it. False: it is understood and kept. */
bool rules_attribute_works(enum rules_attribute attribute);

#define RULES_VALUE_BYTES 96
/* The value as a policy has it; terminated. */
void rules_value_text(enum rules_attribute attribute, uint64_t value, char ret_text[RULES_VALUE_BYTES]);

#endif
