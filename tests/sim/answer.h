/*
 * answer.h - the origin's answers to requests about the namespace, as the store is when they are
 * made, with the leases that the authority grants on them. Plain values on the caller's stack.
 */
#ifndef TESTS_SIM_ANSWER_H
#define TESTS_SIM_ANSWER_H

#include "tests/sim/sim.h"

struct answer {
	struct message message;
	uint8_t node_bytes[700];
	struct writer nodes;
	uint8_t bulk_bytes[400];
	struct writer bulk;
};

void answer_init(struct answer *answer);
/* Finishes the lists of an answer; then it can be encoded. */
void answer_seal(struct sim *sim, struct answer *answer);
void answer_send(struct sim *sim, struct answer *answer, unsigned host, uint32_t id);
/* An answer that says `status` and nothing else. */
void answer_status(struct sim *sim, unsigned host, uint32_t id, uint16_t status);
/*
 * Adds the node of `inode` at its present version, with a lease if the authority grants one. An
 * answer with several grants states the lowest of their recall sequences: a later grant can make
 * the authority recall what an earlier one of the same answer gave (a session at its limit).
 */
void answer_node(struct sim *sim, struct answer *answer, enum node_role role, uint32_t inode,
		 uint32_t before, struct session_id session, uint64_t op, bool wants_lease);
/* What the read-only `request` asks for. `op`: the strict read that it is, or 0. */
void answer_content(struct sim *sim, struct answer *answer, const struct message *request,
		    uint64_t op);
/* What a modification came to, for the one who asked for it. */
void answer_modified(struct sim *sim, struct answer *answer,
		     const struct origin_operation *operation);

#endif
