#include "fs/mount/sweep.h"

void sweep_saw_lookup(struct sweep *sweep, uint64_t directory, uint64_t file)
{
	unsigned at = sweep->lookup_at;

	sweep->lookups[at].file = file;
	sweep->lookups[at].directory = directory;
	sweep->lookup_at = (at + 1) % SWEEP_LOOKUPS;
}

/* In which it was looked up last; 0: not known any more. */
static uint64_t directory_of(const struct sweep *sweep, uint64_t file)
{
	for (unsigned i = 1; i <= SWEEP_LOOKUPS; i++) {
		unsigned at = (sweep->lookup_at + SWEEP_LOOKUPS - i) % SWEEP_LOOKUPS;

		if (sweep->lookups[at].file == file)
			return sweep->lookups[at].directory;
	}
	return 0;
}

/* What is known of it, or the one that was seen least lately, emptied. */
static struct sweep_directory *directory_get(struct sweep *sweep, struct instant now, uint64_t nodeid)
{
	struct sweep_directory *oldest = &sweep->directories[0];

	for (unsigned i = 0; i < SWEEP_DIRECTORIES; i++) {
		struct sweep_directory *d = &sweep->directories[i];

		if (d->nodeid == nodeid) {
			oldest = d;
			break;
		}
		if (instant_before(d->at, oldest->at))
			oldest = d;
	}
	if (oldest->nodeid != nodeid || instant_before(instant_add(oldest->at, SWEEP_GAP), now))
		*oldest = (struct sweep_directory){ .nodeid = nodeid };
	oldest->at = now;
	return oldest;
}

void sweep_saw_listing(struct sweep *sweep, struct instant now, uint64_t directory)
{
	directory_get(sweep, now, directory)->listed = true;
}

bool sweep_saw_open(struct sweep *sweep, struct instant now, uint64_t file)
{
	uint64_t nodeid = directory_of(sweep, file);
	struct sweep_directory *d = nodeid ? directory_get(sweep, now, nodeid) : NULL;

	if (!d)
		return false;
	if (d->file != file) {
		d->file = file;
		d->files += d->files < SWEEP_FILES;
	}
	return d->files >= (d->listed ? SWEEP_FILES_LISTED : SWEEP_FILES);
}
