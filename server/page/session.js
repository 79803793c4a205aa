/** The signed-in key. It is kept in the tab's session storage, which the browser deletes with the tab. */

const NAME = "agentname-key";

export const session = {
  key: sessionStorage.getItem(NAME),
  me: null, // GET /api/me

  keep(key) {
    sessionStorage.setItem(NAME, key);
    this.key = key;
  },

  forget() {
    sessionStorage.clear();
    this.key = this.me = null;
  },

  get admin() {
    return this.me?.scopes.includes("admin") ?? false;
  },
};
