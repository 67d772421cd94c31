// Decisions of one person about one report, in order, so that any of them can be taken back and made again.
//
// They are kept in this tab's session storage (cell identifiers and classes only): they survive a page that is loaded
// again, another filter, and a session that ended.

const LONGEST = 1000;

export class DecisionHistory {
  /** @param {string} key Name in the session storage; it holds the person and the report. */
  constructor(key) {
    this.key = key;
    const { done = [], undone = [], versions = {} } = JSON.parse(sessionStorage.getItem(key) ?? "{}");
    this.done = done;
    this.undone = undone;
    this.versions = versions; // of each cell, the version that this person's last decision got
  }

  get canUndo() {
    return this.done.length > 0;
  }

  get canRedo() {
    return this.undone.length > 0;
  }

  /** Add a decision: {uid, from, to, seen}, from and to being {decision, label}. */
  add(step) {
    this.done = [...this.done, step].slice(-LONGEST);
    this.undone = [];
    this.versions[step.uid] = step.seen;
    this.keep();
  }

  undo() {
    return this.pass(this.done, this.undone);
  }

  redo() {
    return this.pass(this.undone, this.done);
  }

  pass(from, to) {
    const step = from.pop();
    if (step) to.push(step);
    this.keep();
    return step;
  }

  /** The server has saved a decision about a cell as this version. */
  saved(uid, version) {
    if (!(uid in this.versions)) return;
    this.versions[uid] = version;
    this.keep();
  }

  /** Another person has decided about the cell: nothing earlier can be taken back. */
  forget(uid) {
    this.done = this.done.filter((step) => step.uid !== uid);
    this.undone = this.undone.filter((step) => step.uid !== uid);
    delete this.versions[uid];
    this.keep();
  }

  keep() {
    sessionStorage.setItem(this.key, JSON.stringify({ done: this.done, undone: this.undone, versions: this.versions }));
  }
}
