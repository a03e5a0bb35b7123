/*
 * Hosts that do not answer, and what is sealed (PROTOCOL.md 11.4). A session that ended without its host
 * having given everything up is remembered here for as long as a seal's term can last: an unseal waits for
 * it. What does not fit is remembered as one: when the last of those was renewed.
 */
#include "lease/authority_internal.h"

#include "lease/seal.h"

#include <errno.h>

struct silent *silent_make(struct authority *a)
{
	struct silent *silent = authority_allocate(a, sizeof(*silent));

	if (silent)
		list_init(&silent->link);
	return silent;
}

static void silent_remove(struct authority *a, struct silent *silent)
{
	list_remove(&silent->link);
	a->silent_count--;
	authority_free(a, silent, sizeof(*silent));
}

/* PROTOCOL.md 4.2, of a seal's term. */
static struct instant silent_end(const struct authority *a, struct instant renewed,
				 struct duration term)
{
	term.ns += term.ns / 1000000 * a->config.drift_ppm +
		   term.ns % 1000000 * a->config.drift_ppm / 1000000;
	return instant_add(instant_add(renewed, term), a->config.margin);
}

void authority_silent_restore_unknown(struct authority *a, struct instant renewed)
{
	if (instant_before(a->silent_unknown, renewed))
		a->silent_unknown = renewed;
}

void silent_add(struct authority *a, struct silent *silent)
{
	struct duration longest = seal_term_of_code(SEAL_TERM_CODE_MAX);

	LIST_FOR_EACH(at, &a->silent) {
		struct silent *old = LIST_ENTRY(at, struct silent, link);

		if (!instant_before(a->now, silent_end(a, old->is.renewed, longest)))
			silent_remove(a, old);
	}
	if (a->silent_count >= AUTHORITY_SILENT_COUNT_MAX) {
		struct silent *oldest = LIST_ENTRY(list_first(&a->silent), struct silent, link);

		authority_silent_restore_unknown(a, oldest->is.renewed);
		silent_remove(a, oldest);
	}
	list_append(&a->silent, &silent->link);
	a->silent_count++;
}

void silent_heard(struct authority *a, struct session *session)
{
	if (session->heard)
		return;
	session->heard = true;
	LIST_FOR_EACH(at, &a->silent) {
		struct silent *silent = LIST_ENTRY(at, struct silent, link);

		if (silent->is.instance == session->instance &&
		    memcmp(silent->is.host, session->host, sizeof(session->host)) == 0)
			silent_remove(a, silent);
	}
}

void silent_free_all(struct authority *a)
{
	struct list *first;

	while ((first = list_first(&a->silent)))
		silent_remove(a, LIST_ENTRY(first, struct silent, link));
}

void authority_session_name(struct authority *a, struct session_id id, const char *name)
{
	struct session *session = session_get_live(a, id);
	size_t length = strlen(name);

	if (!session)
		return;
	if (length >= AUTHORITY_HOST_NAME_BYTES)
		length = AUTHORITY_HOST_NAME_BYTES - 1;
	memcpy(session->silent->is.name, name, length);
	session->silent->is.name[length] = '\0';
}

int authority_silent_restore(struct authority *a, const struct authority_silent *is)
{
	struct silent *silent = silent_make(a);

	if (!silent)
		return -ENOMEM;
#ifdef LEASE_WRONG_SILENT_FORGOTTEN
	/* Wrong on purpose: who was silent before this process is forgotten. */
	authority_free(a, silent, sizeof(*silent));
	return 0;
#endif
	silent->is = *is;
	silent->is.name[AUTHORITY_HOST_NAME_BYTES - 1] = '\0';
	silent_add(a, silent);
	return 0;
}

struct duration authority_silent_wait_of(const struct authority *a, struct instant renewed,
					 struct instant now, struct duration term)
{
	if (instant_before(now, a->now))
		now = a->now;
	if (term.ns == 0 || renewed.ns == 0)
		return (struct duration){ 0 };
	return instant_until(now, silent_end(a, renewed, term));
}

struct duration authority_silent_wait(const struct authority *a, struct instant now,
				      struct duration term)
{
	struct instant latest = a->silent_unknown;

#ifdef LEASE_WRONG_UNSEAL_WITHOUT_WAITING
	/* Wrong on purpose: whose session is over is taken to have given up what is sealed. */
	return (struct duration){ 0 };
#endif
	LIST_FOR_EACH(at, &a->silent) {
		const struct silent *silent = LIST_ENTRY(at, struct silent, link);

		if (instant_before(latest, silent->is.renewed))
			latest = silent->is.renewed;
	}
	return authority_silent_wait_of(a, latest, now, term);
}

const struct authority_silent *authority_silent_next(const struct authority *a,
						     const struct authority_silent *at)
{
	const struct list *next = at ? ((const struct silent *)((const char *)at -
					 offsetof(struct silent, is)))->link.next : a->silent.next;

	return next == &a->silent ? NULL : &LIST_ENTRY(next, struct silent, link)->is;
}

struct instant authority_silent_unknown(const struct authority *a)
{
	return a->silent_unknown;
}

uint32_t authority_silent_forget(struct authority *a, const char *name)
{
	uint32_t count = 0;

	if (!name && a->silent_unknown.ns) {
		a->silent_unknown.ns = 0;
		count++;
	}
	LIST_FOR_EACH(at, &a->silent) {
		struct silent *silent = LIST_ENTRY(at, struct silent, link);

		if (name && strcmp(silent->is.name, name) == 0) {
			silent_remove(a, silent);
			count++;
		}
	}
	return count;
}
