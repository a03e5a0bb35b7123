#include "fs/mount/seal.h"

/* enum attribute_marks, as known under a lease that stands; with disconnected=stale, also one that did. */
static uint32_t marks(struct mount *m, struct inode *inode, struct instant now)
{
	struct attributes known;
	const struct attributes *attributes = inode_attributes(m, inode, now, &known);

	return attributes ? attributes->mode & (MARK_SEALED | MARK_FINAL) : 0;
}

bool inode_sealed(struct mount *m, struct inode *inode, struct instant now,
		  struct change *ret_change)
{
	struct change change;

	if (!S_ISREG(inode->type) || !(marks(m, inode, now) & MARK_FINAL) ||
	    !inode_lease_strict(m, inode, now, &change))
		return false;
	if (!change_known(change))
		return false;
	if (ret_change)
		*ret_change = change;
	return true;
}

const char *inode_seal_text(struct mount *m, struct inode *inode, struct instant now)
{
	uint32_t known = marks(m, inode, now);

	if (!inode_attributes_stand(m, inode, now))
		return "unknown";
	if (known & MARK_SEALED)
		return "sealed";
	return known & MARK_FINAL ? "final" : "no";
}
