/* What the origin answers, and the leases that ride on it. */
#include "tests/sim/answer.h"

#include <assert.h>

void answer_init(struct answer *answer)
{
	memset(&answer->message, 0, sizeof(answer->message));
	answer->message.type = MESSAGE_reply;
	answer->nodes = writer_of(answer->node_bytes, sizeof(answer->node_bytes));
	answer->bulk = writer_of(answer->bulk_bytes, sizeof(answer->bulk_bytes));
	answer->message.reply.recall_sequence = UINT64_MAX;
}

void answer_seal(struct sim *sim, struct answer *answer)
{
	struct message_reply *reply = &answer->message.reply;

	reply->incarnation = sim->store.incarnation;
	reply->nodes = (struct slice){ answer->node_bytes, answer->nodes.at };
	if (reply->recall_sequence == UINT64_MAX)
		reply->recall_sequence = 0;
}

void answer_send(struct sim *sim, struct answer *answer, unsigned host, uint32_t id)
{
	answer_seal(sim, answer);
	network_send(sim, host, true, false, id, &answer->message, answer->bulk_bytes,
		     answer->bulk.at);
}

static uint32_t seal_mode(uint32_t seal)
{
	return seal ? MARK_SEALED | seal << MARK_TERM_SHIFT : 0;
}

void answer_node(struct sim *sim, struct answer *answer, enum node_role role, uint32_t inode,
		 uint32_t before, struct session_id session, uint64_t op, bool wants_lease)
{
	const struct store_inode *i = &sim->store.inodes[inode];
	uint32_t links = i->history[i->version].gone ? 0 : 1;
	struct item_node node = { .role = (uint8_t)role,
				  .handle = store_handle(inode),
				  .before = store_change(sim, inode, before),
				  .change = store_change(sim, inode, i->version),
				  .attributes = { .inode = inode,
						  .size = i->version,
						  .mode = (i->directory ? 0040755u : 0100644u) |
							  seal_mode(i->history[i->version].seal),
						  .nlink = links } };
	struct message_reply *reply = &answer->message.reply;
	uint64_t recall_sequence = 0;

	if (wants_lease) {
		node.lease = (uint8_t)authority_grant(sim->origin.authority, origin_now(sim),
						      session, &node.handle, op,
						      &sim->origin.actions, &recall_sequence);
		if (node.lease != LEASE_NONE)
			stores_check_granted(sim, session, inode);
		if (recall_sequence < reply->recall_sequence)
			reply->recall_sequence = recall_sequence;
	}
	item_node_write(&answer->nodes, &node);
}

void answer_content(struct sim *sim, struct answer *answer, const struct message *request,
		    uint64_t op)
{
	struct session_id session = { request->common.session };
	const struct store_inode *i;
	uint32_t inode, part;

	switch (request->type) {
	case MESSAGE_read:
		inode = store_inode_of(sim, &request->read.handle);
		i = &sim->store.inodes[inode];
		if (i->freed)
			break;
		writer_u32(&answer->bulk, i->history[i->version].part[request->read.offset]);
		answer_node(sim, answer, NODE_TARGET, inode, i->version, session, op, true);
		return;
	case MESSAGE_getattr:
		inode = store_inode_of(sim, &request->getattr.handle);
		i = &sim->store.inodes[inode];
		if (i->freed)
			break;
		answer_node(sim, answer, NODE_TARGET, inode, i->version, session, op, true);
		return;
	case MESSAGE_lookup:
		inode = store_inode_of(sim, &request->lookup.directory);
		part = store_part_of(sim, request->lookup.name);
		i = &sim->store.inodes[inode];
		writer_u32(&answer->bulk, i->history[i->version].part[part]);
		answer_node(sim, answer, NODE_DIRECTORY, inode, i->version, session, op, true);
		inode = i->history[i->version].child[part];
		if (!inode) {
			answer->message.reply.status = STATUS_NOENT;
			return;
		}
		answer_node(sim, answer, NODE_TARGET, inode, sim->store.inodes[inode].version,
			    session, op, true);
		return;
	case MESSAGE_readdir:
		inode = store_inode_of(sim, &request->readdir.directory);
		i = &sim->store.inodes[inode];
		for (part = 0; part < PARTS; part++) {
			struct item_dirent entry = { .cookie = part + 1,
						     .name = store_name(part) };

			entry.inode = i->history[i->version].child[part];
			if (!entry.inode)
				continue;
			item_dirent_write(&answer->bulk, &entry);
			answer->message.reply.count++;
		}
		answer_node(sim, answer, NODE_TARGET, inode, i->version, session, op, true);
		return;
	default:
		assert(false);
	}
	answer->message.reply.status = STATUS_STALE;
}

void answer_modified(struct sim *sim, struct answer *answer,
		     const struct origin_operation *operation)
{
	const struct modification *m = &operation->m;

	answer->message.reply.status = m->status;
	if (m->created)
		answer_node(sim, answer, NODE_TARGET, m->created, 1, operation->session,
			    operation->id, true);
	for (uint32_t t = 0; t < m->touched_count; t++) {
		uint32_t inode = m->touched[t].inode;
		enum node_role role = NODE_TARGET;

		if (sim->store.inodes[inode].directory)
			role = inode == m->inode ? NODE_DIRECTORY : NODE_NEW_DIRECTORY;
		else if (m->action == ACTION_UNLINK ||
			 (m->action == ACTION_RENAME && inode != m->child))
			role = NODE_REPLACED;
		answer_node(sim, answer, role, inode, m->touched[t].before, operation->session,
			    operation->id, role != NODE_REPLACED);
	}
}

void answer_status(struct sim *sim, unsigned host, uint32_t id, uint16_t status)
{
	struct answer answer;

	answer_init(&answer);
	answer.message.reply.status = status;
	answer_send(sim, &answer, host, id);
}
