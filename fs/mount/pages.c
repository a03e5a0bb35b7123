#include "fs/mount/pages.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/mount/notifier.h"
#include "fs/mount/read.h"

#define SPARE_PART 16      /* of the slots: with fewer left, some are given back */
#define EVICTIONS_MAX 1024 /* inodes whose pages are dropped at a time */

struct eviction {
	struct notifier_work work;
	unsigned count;
	struct {
		struct inode *inode; /* with a use */
		uint32_t fill_serial;
	} items[EVICTIONS_MAX];
};

void pages_give_back(struct mount *m, struct inode *inode)
{
	if (!inode->live->pages)
		return;
	m->page_inodes[inode->live->guardian_slot] = NULL;
	guardian_remove(m->guardian, inode->live->guardian_slot);
	inode_live(inode)->guardian_slot = -1;
	inode_live(inode)->pages = false;
	inode_live(inode)->pages_whole = false;
}

void pages_note_read(struct inode *inode, uint64_t offset, uint64_t length, uint64_t size)
{
	if (inode->live->pages && !inode->live->pages_whole && offset == 0 && size > 0 && length >= size)
		inode_live(inode)->pages_whole = true;
}

/* Nobody can put a page in: not mapped, since then the last close would not have come; or, where none
   is told, each READ asks for a slot. */
static bool evictable(const struct inode *inode)
{
	return inode->live->pages && inode->live->open_count == 0 && inode->live->fills == 0 &&
	       inode->live->stored.session.value == 0;
}

static void evicted(struct mount *m, struct notifier_work *work)
{
	struct eviction *eviction = (struct eviction *)work;

	for (unsigned i = 0; i < eviction->count; i++) {
		COUNT(m, invalidations);
		/* Errors: the inode is gone from the kernel, or all of it is. */
		(void)fuse_lowlevel_notify_inval_inode(m->fuse, eviction->items[i].inode->nodeid, 0,
						       0);
	}
	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < eviction->count; i++) {
		struct inode *inode = eviction->items[i].inode;

		/* Unless it was opened and read meanwhile. */
		if (evictable(inode) && inode->live->fill_serial == eviction->items[i].fill_serial)
			pages_give_back(m, inode);
		inode_unuse(m, inode);
	}
	m->pages_evicting = false;
	pthread_mutex_unlock(&m->lock);
	free(eviction);
	read_release_slotless(m);
}

/* In turn: each stays for one round at least. */
static void evict(struct mount *m)
{
	struct eviction *eviction = m->pages_evicting ? NULL : malloc(sizeof(*eviction));
	uint32_t slots = guardian_room_max(m->guardian);

	if (!eviction)
		return; /* at the next open */
	eviction->work = (struct notifier_work){ .done = evicted };
	eviction->count = 0;
	for (uint32_t i = 0; i < slots && eviction->count < EVICTIONS_MAX; i++) {
		struct inode *inode = m->page_inodes[m->page_hand];

		m->page_hand = (m->page_hand + 1) % slots;
		if (!inode || !evictable(inode))
			continue;
		if (inode->lookup_count == 0) {
			pages_give_back(m, inode); /* the kernel has forgotten it */
			continue;
		}
		inode_use(m, inode);
		eviction->items[eviction->count].inode = inode;
		eviction->items[eviction->count++].fill_serial = inode->live->fill_serial;
	}
	if (eviction->count == 0) {
		free(eviction);
		return;
	}
	m->pages_evicting = true;
	notifier_push(m, LANE_MODIFY, &eviction->work);
}

bool pages_allow(struct mount *m, struct inode *inode)
{
	int slot;

	if (inode->live->pages)
		return true;
	if (!m->page_inodes)
		m->page_inodes = calloc(guardian_room_max(m->guardian), sizeof(struct inode *));
	slot = m->page_inodes ? guardian_add(m->guardian, inode->nodeid) : -ENOMEM;
	if (slot >= 0) {
		m->page_inodes[slot] = inode;
		inode_live(inode)->pages = true;
		inode_live(inode)->pages_whole = false;
		inode_live(inode)->guardian_slot = slot;
	}
	if (m->page_inodes &&
	    guardian_room(m->guardian) < guardian_room_max(m->guardian) / SPARE_PART)
		evict(m);
	return inode->live->pages;
}
