#include "fs/mount/mode.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>

struct mode_request mode_request(int flags)
{
	return (struct mode_request){
		.reads = (flags & O_ACCMODE) != O_WRONLY,
		.writes = (flags & O_ACCMODE) != O_RDONLY,
		.direct = (flags & O_DIRECT) != 0,
	};
}

/* Nothing is open that the kernel, or a writer, would not have beside passthrough. */
static bool may_enter(const struct mode_state *state)
{
	return state->pages == 0 && state->direct == 0 && state->writers == 0;
}

bool mode_wants_backing(const struct mode_state *state, const struct mode_facts *facts,
			struct mode_request request)
{
	return facts->can_pass && facts->sealed && request.reads && !request.writes &&
	       (!request.direct || facts->backs_direct) && state->passthrough == 0 &&
	       may_enter(state);
}

/* Beside descriptors in passthrough the kernel takes nothing else. */
static struct mode_answer open_beside(struct mode_state *state, const struct mode_facts *facts,
				      struct mode_request request)
{
	struct mode_answer answer = { .backing_id = state->backing_id };

	if (request.writes)
		answer.error = facts->sealed ? EPERM : ETXTBSY;
	else if (request.direct && !facts->backs_direct)
		answer.error = EINVAL; /* as the file system below it says */
	if (answer.error) {
		answer.backing_id = 0;
		return answer;
	}
	answer.mode = facts->sealed ? MODE_PASSTHROUGH : MODE_BRIDGE;
	state->passthrough++;
	return answer;
}

struct mode_answer mode_open(struct mode_state *state, const struct mode_facts *facts,
			     struct mode_request request, int32_t candidate)
{
	struct mode_answer answer = { 0 };

	if (state->passthrough > 0) {
		answer = open_beside(state, facts, request);
		answer.unused_id = candidate;
		return answer;
	}
	if (candidate && mode_wants_backing(state, facts, request)) {
		state->backing_id = candidate;
		state->passthrough++;
		answer.mode = MODE_PASSTHROUGH;
		answer.backing_id = candidate;
		return answer;
	}
	answer.unused_id = candidate;
	answer.mode = request.writes || !facts->pages ? MODE_DIRECT : MODE_PAGES;
	if (answer.mode == MODE_PAGES)
		state->pages++;
	else
		state->direct += request.reads;
	state->writers += request.writes;
	return answer;
}

int32_t mode_release(struct mode_state *state, enum mode mode, struct mode_request request)
{
	int32_t id = 0;

	switch (mode) {
	case MODE_PAGES:
		state->pages--;
		break;
	case MODE_DIRECT:
		state->direct -= request.reads;
		break;
	case MODE_PASSTHROUGH:
	case MODE_BRIDGE:
		if (--state->passthrough == 0) {
			id = state->backing_id;
			state->backing_id = 0;
		}
		break;
	}
	state->writers -= request.writes;
	return id;
}

enum mode mode_of(const struct mode_state *state, const struct mode_facts *facts, bool complete,
		  enum mode_reason *ret_reason)
{
	if (state->passthrough > 0) {
		*ret_reason = facts->sealed ? MODE_IS_SEALED : MODE_SEAL_LOST;
		return facts->sealed ? MODE_PASSTHROUGH : MODE_BRIDGE;
	}
	if (state->writers > 0) {
		*ret_reason = MODE_HAS_WRITER;
		return MODE_DIRECT;
	}
	if (facts->sealed && facts->can_pass && complete && may_enter(state)) {
		*ret_reason = MODE_IS_SEALED;
		return MODE_PASSTHROUGH;
	}
	if (!facts->pages) {
		*ret_reason = MODE_NO_ROOM;
		return MODE_DIRECT;
	}
	if (!facts->sealed)
		*ret_reason = MODE_NOT_SEALED;
	else if (!facts->can_pass)
		*ret_reason = MODE_CANNOT_PASS;
	else if (!complete)
		*ret_reason = MODE_INCOMPLETE;
	else
		*ret_reason = MODE_OPEN_OTHERWISE;
	return MODE_PAGES;
}

const char *mode_name(enum mode mode)
{
	static const char *const names[] = {
		[MODE_PAGES] = "pages",
		[MODE_DIRECT] = "direct",
		[MODE_PASSTHROUGH] = "passthrough",
		[MODE_BRIDGE] = "bridge",
	};

	return names[mode];
}

void mode_check_invariants(const struct mode_state *state)
{
	assert((state->passthrough > 0) == (state->backing_id != 0));
	assert(state->passthrough == 0 || may_enter(state));
}
