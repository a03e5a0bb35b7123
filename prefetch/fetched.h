/*
 * fetched.h - of each file what was fetched ahead last, on whose behalf, and whether it was of use.
 *
 * So that a user can ask about one file what the ledger (ledger.h) knows in sums only. Of each inode the
 * last one who had something fetched is remembered: a predictor, a policy, a user; what he had fetched since,
 * and how much of that was read, at most: what is read twice counts twice, up to what was fetched.
 *
 * Bounded: FETCHED_INODES_MAX inodes, those that nothing happened to for longest are forgotten. Memory is
 * taken when it is made. The owner serializes calls; no locks inside.
 */
#ifndef PREFETCH_FETCHED_H
#define PREFETCH_FETCHED_H

#include "lease/base/allocator.h"
#include "prefetch/intent.h"
#include "prefetch/scheduler.h"

#define FETCHED_INODES_MAX 8192u /* of 88 bytes */
/* As an offset: the listing of a directory. The same as LEDGER_LISTING. */
#define FETCHED_LISTING UINT64_MAX

struct fetched;

struct fetched_source {
	enum wish_class class;
	enum predictor_id predictor; /* of WISH_GUESS; else 0 */
	uint32_t uid;                /* of WISH_ASKED; else 0 */
};

struct fetched_facts {
	struct fetched_source source;
	struct instant at;          /* of the last request */
	uint64_t bytes, read_bytes; /* of a listing: 0 */
	bool listing, listed;       /* it was a listing; an application asked for it since */
};

/* 0 or -ENOMEM. */
int fetched_create(const struct allocator *allocator, struct fetched **ret_fetched) MUST_CHECK;
void fetched_destroy(struct fetched *f);

/* A request for these bytes was sent. */
void fetched_sent(struct fetched *f, uint64_t inode, const struct fetched_source *source,
		  struct instant now, uint64_t offset, uint64_t length);
/* They will not come. */
void fetched_failed(struct fetched *f, uint64_t inode, uint64_t length);
/* An application reads them, or lists the directory (FETCHED_LISTING). */
void fetched_read(struct fetched *f, uint64_t inode, uint64_t offset, uint64_t length);

/* False: nothing is known of that. */
bool fetched_get(const struct fetched *f, uint64_t inode, struct fetched_facts *ret_facts);

#endif
