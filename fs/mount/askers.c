#include "fs/mount/askers.h"

#include <string.h>

#define NO_UID UINT32_MAX /* no user's: what is below is a generation and a place in the table */
#define NOBODY 65534u
#define GENERATIONS (UINT32_MAX / ASKERS_MAX)

static bool same(const struct credential *a, const struct credential *b)
{
	return a->uid == b->uid && a->gid == b->gid && a->group_count == b->group_count &&
	       memcmp(a->groups, b->groups, a->group_count * sizeof(a->groups[0])) == 0;
}

uint64_t askers_who(struct askers *a, const struct credential *credential)
{
	uint32_t at = 0;

	if (credential->group_count == 0)
		return askers_user(credential->uid, credential->gid);
	pthread_mutex_lock(&a->lock);
	while (at < ASKERS_MAX &&
	       !(a->items[at].generation && same(&a->items[at].credential, credential)))
		at++;
	if (at == ASKERS_MAX) {
		at = a->next++ % ASKERS_MAX;
		a->generation = a->generation % (GENERATIONS - 1) + 1;
		a->items[at].generation = a->generation;
		a->items[at].credential = *credential;
	}
	at += a->items[at].generation * ASKERS_MAX;
	pthread_mutex_unlock(&a->lock);
	return askers_user(NO_UID, at);
}

struct credential askers_credential(struct askers *a, uint64_t who)
{
	struct credential credential = { .uid = (uint32_t)(who >> 32), .gid = (uint32_t)who };
	uint32_t at = credential.gid % ASKERS_MAX, generation = credential.gid / ASKERS_MAX;

	if (credential.uid != NO_UID)
		return credential;
	pthread_mutex_lock(&a->lock);
	if (a->items[at].generation == generation)
		credential = a->items[at].credential;
	else
		credential = (struct credential){ .uid = NOBODY, .gid = NOBODY };
	pthread_mutex_unlock(&a->lock);
	return credential;
}
