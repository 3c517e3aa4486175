/* Reading a chart: the nearest point of each line beside the pointer. The page is complete without it. */
for (const svg of document.querySelectorAll('svg.chart[data-range]')) {
  const [x0, x1, y0, y1] = svg.dataset.range.split(' ').map(Number);
  const box = svg.viewBox.baseVal, left = 62, right = 14, top = 12, bottom = 34;
  const lines = [...svg.querySelectorAll('polyline.line')].map(l => ({
    name: l.dataset.name, at: l.getAttribute('points').trim().split(' ').filter(Boolean).map(p => p.split(',').map(Number)) }));
  const tip = document.createElement('div');
  tip.className = 'tip';
  svg.parentNode.append(tip);
  const show = v => Math.abs(v) >= 1e5 || (v && Math.abs(v) < 1e-3) ? v.toExponential(2) : +v.toPrecision(4);
  svg.addEventListener('mouseleave', () => tip.style.display = 'none');
  svg.addEventListener('mousemove', e => {
    const r = svg.getBoundingClientRect(), px = (e.clientX - r.left) * box.width / r.width;
    const text = [];
    for (const l of lines) {
      if (!l.at.length) continue;
      const p = l.at.reduce((a, b) => Math.abs(b[0] - px) < Math.abs(a[0] - px) ? b : a);
      if (!text.length) text.push(svg.querySelector('.name').textContent + ' ' +
        show(x0 + (p[0] - left) / (box.width - left - right) * (x1 - x0)));
      text.push(l.name + ': ' + show(y1 - (p[1] - top) / (box.height - top - bottom) * (y1 - y0)));
    }
    tip.textContent = text.join('\n');
    tip.style.display = text.length ? 'block' : 'none';
    const half = e.clientX > r.left + r.width / 2;
    tip.style.left = (e.clientX - svg.parentNode.getBoundingClientRect().left + (half ? -tip.offsetWidth - 12 : 12)) + 'px';
    tip.style.top = (e.clientY - svg.parentNode.getBoundingClientRect().top + 8) + 'px';
  });
}
