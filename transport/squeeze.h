/*
 * squeeze.h - whether an answer is to be compressed: pure.
 *
 * It pays when the link is slower than the processor compresses, and there is something to be saved. The
 * link's rate the kernel tells (server_link.c); what a core compresses in a second, and how much was saved,
 * is learned from what was compressed. Groups of answers are alike (those about one inode): of a group
 * of which nothing is known a sample is compressed first, and one that does not get smaller is left
 * alone, but for a sample now and then.
 *
 * One caller at a time. A table of fixed size: a group may lose its place, and is sampled again then.
 */
#ifndef TRANSPORT_SQUEEZE_H
#define TRANSPORT_SQUEEZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SQUEEZE_BYTES_MIN    (16u << 10) /* less is one packet or a few: not worth a look */
#define SQUEEZE_SAMPLE_BYTES (32u << 10)
#define SQUEEZE_SAVED_MIN    200u /* of 1,000 bytes; for less it is not worth it */
#define SQUEEZE_GROUPS	     1024u
#define SQUEEZE_RATE_DEFAULT 300000000u /* zstd -1 on one core: what is assumed at first */

struct squeeze_group {
	uint64_t key; /* 0: free */
	uint16_t saved;	  /* of 1,000 bytes, at the last try */
	uint16_t skipped; /* answers since then */
};

struct squeeze {
	uint64_t core_rate; /* bytes per second */
	struct squeeze_group groups[SQUEEZE_GROUPS];
};

enum squeeze_verdict {
	SQUEEZE_NOT,
	SQUEEZE_SAMPLE, /* try a part of it, tell squeeze_learned(), and ask again */
	SQUEEZE_ALL,
};

void squeeze_init(struct squeeze *s);
/* `group` 0: it is like nothing else. `link_rate` in bytes per second, 0: not known. */
enum squeeze_verdict squeeze_decide(struct squeeze *s, uint64_t group, size_t length,
				    uint64_t link_rate);
/* Compressing `in` bytes of the group made `out` of them. */
void squeeze_learned(struct squeeze *s, uint64_t group, size_t in, size_t out);
/* Compressing `in` bytes took so long. */
void squeeze_measured(struct squeeze *s, size_t in, uint64_t ns);
/* The rule itself, of rates and of what is saved of 1,000 bytes. */
bool squeeze_pays(uint64_t link_rate, uint64_t core_rate, unsigned saved);

#endif
